"""What a model card says of the training corpus: its sources, licences, writers and review, and what it cannot teach.

Says only what the corpus's facts hold (medclm/data/corpus_facts.py). Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medclm.markdown import LISTED, bullets, count, counted, escape, listed, table

_TEMPLATE = "template"
_PHANTOMS = "phantoms"
_MODEL_WRITERS = ("openai:", "local:")
_MEANING = {
    1: "It asks nothing.",
    2: "It asks that its notice goes with every copy.",
    3: "It asks that the source is named wherever these weights are used.",
    4: "It asks that what is made from the data is shared under the same licence.",
    5: "It forbids to share what is made from the data.",
    6: "It allows non-commercial use only.",
    7: "It allows non-commercial use only, and asks that what is made from the data is shared under the same licence.",
    8: "It allows non-commercial use only, and forbids to share what is made from the data.",
    9: "Its terms are unknown, or bind those who signed them: do not share these weights before you have read them.",
}
"""Strictness (medclm/data/manifest.py) -> what the licence asks, in one sentence."""


def data_section(corpus: Mapping[str, Any] | None) -> list[str]:
    if corpus is None:
        return ["## Training data", "Not known: the corpus was not at hand when this model was exported."]
    domains = corpus["domains"]
    rest = sum(list(domains.values())[LISTED:])
    rows = [(escape(name), f"{n:,}") for name, n in list(domains.items())[:LISTED]]
    rows += [(f"{len(domains) - LISTED} more", f"{rest:,}")] if rest else []
    splits = ", ".join(f"{name} {n:,}" for name, n in corpus["records"].items())
    return [
        "## Training data",
        f"{corpus['images']:,} pictures; records by split: {splits}. Trained on split {escape(corpus['trained_split'])}; what follows "
        "counts that split, sources and modalities the whole corpus.",
        *_sources(corpus["sources"]),
        table(("domain", "records"), rows),
        "\n".join(
            (
                f"- Pictures by modality: {counted(corpus['modalities'])}",
                f"- Questions by kind: {counted(corpus['question_kinds'])}",
                f"- Languages: {counted(corpus['languages'])}",
                f"- Texts by writer: {counted(corpus['writers'])}. {_worded(corpus['writers'])}",
                f"- Review: {_review(corpus['review'])}",
            )
        ),
    ]


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    if not sources:
        return ["Sources are not stated in the corpus."]
    rows = [
        (
            escape(one["name"]),
            count(one["images"]),
            listed(one["licences"]) or "unknown",
            {True: "yes", False: "no", None: "unknown"}[one["shareable"]],
            listed(one["label_scope"]) or "none",
            count(one["images_without_patient"]),
        )
        for one in sources
    ]
    head = (
        "source",
        "pictures",
        "licence",
        "shareable",
        "classes marked wherever they occur",
        "pictures without a patient",
    )
    return [table(head, rows)]


def _worded(writers: Mapping[str, int]) -> str:
    total = sum(writers.values())
    by_model = sum(n for name, n in writers.items() if name.startswith(_MODEL_WRITERS))
    fixed = writers.get(_TEMPLATE, 0)
    shares = [(by_model, "worded by a language model"), (fixed, "made from fixed phrasings")]
    shares += [(total - by_model - fixed, "taken over from elsewhere or not stated")]
    return "; ".join(f"{n / total:.1%} {what}" for n, what in shares if total and (n or what.startswith("worded"))) + "."


def _review(review: Mapping[str, Any] | None) -> str:
    if review is None:
        return "not reviewed: no reader has judged samples of these texts."
    found = f"{review['n']} samples judged by {review['readers']} reader{'s' * (review['readers'] != 1)}, {review['wrong']} with a wrong fact"
    found += f", {review['unanswerable']} unanswerable"
    found += "" if review["upper"] is None else f"; upper end of the 95 % interval of wrong facts {review['upper']:.2%}"
    found += "" if review["kappa"] is None else f"; kappa {review['kappa']:.3f}"
    return f"{found}; {'accepted' if review['accepted'] else 'not accepted'} (limit 2 %)."


def licence_section(corpus: Mapping[str, Any] | None, base: Mapping[str, str]) -> list[str]:
    licence = corpus["licence"] if corpus else None
    words = ["## Licence"]
    if licence is None:
        words.append("The licences of the training data are not known: do not share these weights before they are.")
    else:
        words.append(
            f"The strictest licence among the sources is **{escape(licence['name'])}**. {_MEANING[licence['strictness']]} Whether "
            "weights are a work made from their training data is not settled; this card takes it that what binds the data binds them."
        )
    kept = [escape(one["name"]) for one in (corpus or {}).get("sources", ()) if one["shareable"] is False]
    if kept:
        words.append(
            f"Not declared shareable by whoever built the corpus: {', '.join(kept)}. Ask before these weights leave you."
        )
    if base["kind"] != "random":
        words.append("The licence of the base weights binds as well; it is not known here.")
    return words


def limitations_section(facts: Mapping[str, Any]) -> list[str]:
    corpus, asking = facts["corpus"], facts["asking"]
    lines = [
        f"It sees {asking['side']} x {asking['side']} pixels, so small findings of large pictures are not shown to it.",
        "Who the patients were (age, sex, place, scanner) is not part of this card: it may do worse on others.",
    ]
    if corpus is None:
        return ["## Limitations", bullets(["What its training data could not teach is not known.", *lines])]
    if modalities := [name for name in corpus["modalities"] if name != "unknown"]:
        lines.append(f"It was shown {listed(modalities)} alone; nothing is known of other modalities.")
    if "unknown" in corpus["modalities"]:
        lines.append(f"The modality of {corpus['modalities']['unknown']:,} pictures is unknown.")
    if languages := [name for name in corpus["languages"] if name != "unknown"]:
        lines.append(f"It was asked in {listed(languages)} alone.")
    lines += [line for one in corpus["sources"] for line in _cannot_teach(one)]
    if corpus["review"] is None or not corpus["review"]["accepted"]:
        lines.append("No review has accepted the texts it learned from: some will be wrong.")
    return ["## Limitations", bullets(lines)]


def _cannot_teach(one: Mapping[str, Any]) -> list[str]:
    name, lines = escape(one["name"]), []
    if one["name"] == _PHANTOMS:
        lines.append(f"{name}: drawn pictures. Nothing follows from them for real ones.")
    if one["images_without_scope"]:
        lines.append(
            f"{name}: in {one['images_without_scope']:,} of {count(one['images'])} pictures no class is known to be marked completely, "
            "so they taught no absence."
        )
    if one["label_scope"]:
        lines.append(f"{name}: absence was taught of {listed(one['label_scope'])} alone.")
    if one["images_without_patient"]:
        lines.append(
            f"{name}: {one['images_without_patient']:,} pictures state no patient, so pictures of one person may lie in several splits."
        )
    return lines
