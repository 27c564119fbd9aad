"""The model card of an export: facts as JSON (model_card.json), shown as the README.md that model hubs read.

`render_card` is a pure function of the facts, so equal facts give equal bytes, and a card with new scores is made without
reading Markdown. Every text that came from data is escaped; nothing here knows a path, a patient or the machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from medclm.config import Recipe
from medclm.markdown import code, escape, listed, table
from medclm.model_card_data import data_section, licence_section, limitations_section

CARD = "README.md"
FACTS = "model_card.json"
FORMAT = 1
NOTICE = "Research use only, not a medical device"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_LICENCES = {
    "apache": ("2.0",),
    "gpl": ("2.0", "3.0"),
    "cc0": ("1.0",),
    "cc-by": ("2.0", "2.5", "3.0", "4.0"),
    "cc-by-sa": ("3.0", "4.0"),
    "cc-by-nd": ("4.0",),
    "cc-by-nc": ("2.0", "3.0", "4.0"),
    "cc-by-nc-sa": ("2.0", "3.0", "4.0"),
    "cc-by-nc-nd": ("3.0", "4.0"),
}
"""Family -> versions that the Hugging Face hub accepts as `license` (huggingface.co/docs/hub/repositories-licenses)."""
_HUB_UNVERSIONED = ("mit", "bsd-2-clause", "bsd-3-clause", "odc-by", "odbl", "pddl", "unknown")


def training_facts(recipe: Recipe, *, step: int, world_size: int) -> dict[str, Any]:
    """What a recipe says of how a model was made, without names of folders and stores.

    Args:
        step: of the exported checkpoint.
        world_size: ranks that wrote it.
    """
    model, train, curriculum = recipe.model, recipe.train, recipe.curriculum
    parts = ("vision_tower", "projector", "language_model")
    return {
        "run": recipe.run.name,
        "step": step,
        "steps": train.steps,
        "ranks": world_size,
        "seed": recipe.run.seed,
        "family": model.family,
        "base": _base(model.path),
        "frozen": [part for part in parts if getattr(model, f"freeze_{part}")],
        "lora": model.lora.model_dump(mode="json") if model.lora.rank else None,
        "policy": curriculum.policy,
        "policy_settings": _policy_settings(recipe),
        "min_side": recipe.data.min_side,
        "train": train.model_dump(mode="json", include=set(_TRAIN_ROWS)),
    }


def _base(path: str) -> dict[str, str]:
    if path == "tiny":
        return {"kind": "random", "name": ""}
    if _HUB_ID.fullmatch(path):
        return {"kind": "hub", "name": path}
    return {"kind": "folder", "name": path.replace("\\", "/").rstrip("/").rpartition("/")[2]}


def _policy_settings(recipe: Recipe) -> dict[str, Any]:
    section = recipe.curriculum.model_dump(mode="json")
    own = section.get({"reverse": "sequential"}.get(recipe.curriculum.policy, recipe.curriculum.policy))
    settings = own if isinstance(own, dict) else {} if own is None else {"shares": own}
    return settings | ({} if recipe.curriculum.unit == "fraction" else {"unit": recipe.curriculum.unit})


def with_evaluations(facts: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts with results added; one of the same suite, questions and way of asking replaces the earlier one.

    Args:
        evaluations: as `evaluation` makes them.
    """
    found = {_key(one): dict(one) for one in [*facts.get("evaluations", ()), *evaluations]}
    return {**facts, "evaluations": [found[key] for key in sorted(found)]}


def evaluation(
    result: Mapping[str, Any], *, split: str, limit: int | None, instruction: str, profile: str, blank: bool, month: str
) -> dict[str, Any]:
    """What a card keeps of a suite's results.json.

    Args:
        limit: at most so many examples were drawn; None = all.
        blank: grey pictures were shown.
        month: when it was judged, YYYY-MM. No day: dates in exports are what an audit looks for.
    """
    scores = {
        name: {key: score[key] for key in ("value", "ci95", "floor", "n")}
        for name, score in result["scores"].items()
        if score["n"] and score["value"] is not None
    }
    return {
        **{key: result[key] for key in ("suite", "benchmark", "n", "left_out")},
        "split": split,
        "limit": limit,
        "instruction": instruction,
        "profile": profile,
        "blank": blank,
        "month": month,
        "scores": scores,
    }


def _key(one: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(one[key]) for key in ("benchmark", "split", "suite", "blank", "instruction", "profile", "limit"))


def render_card(facts: Mapping[str, Any]) -> str:
    """README.md of the facts: YAML for hubs, then Markdown."""
    corpus = facts["corpus"]
    sections = [
        f"---\n{yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True)}---",
        f"<!-- Made from {FACTS}; the next evaluation writes it anew. -->",
        f"# {escape(facts['training']['run'])}, step {facts['training']['step']:,}",
        f"**{NOTICE}.**",
        *_what(facts),
        *_use(corpus),
        *data_section(corpus),
        *licence_section(corpus, facts["training"]["base"]),
        *_training(facts),
        *_asking(facts["asking"]),
        *_evaluation(facts.get("evaluations", ())),
        *limitations_section(facts),
        "## Notice",
        f"{NOTICE}. These weights come without warranty. Nothing they write may decide about a patient.",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(facts: Mapping[str, Any]) -> dict[str, Any]:
    corpus, base = facts["corpus"] or {}, facts["training"]["base"]
    name = (corpus.get("licence") or {"name": "unknown"})["name"]
    slug = _slug(name)
    if base["kind"] != "random":  # two licences bind, and that of the base is not known here
        licence = {"license": "other", "license_name": f"{slug}-and-base-model"}
    elif slug in _HUB_UNVERSIONED or slug.rpartition("-")[2] in _HUB_LICENCES.get(slug.rpartition("-")[0], ()):
        licence = {"license": slug}
    else:
        licence = {"license": "other", "license_name": slug}
    languages = [name for name in corpus.get("languages", ()) if re.fullmatch(r"[a-z]{2,3}", name)]
    modalities = [_slug(name) for name in corpus.get("modalities", ()) if name != "unknown"]
    tags = ["medical", "visual-question-answering", "visual-grounding", "medclm", _slug(facts["training"]["family"])]
    return {
        **licence,
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        **({"base_model": base["name"]} if base["kind"] == "hub" else {}),
        **({"language": languages} if languages else {}),
        "tags": [*tags, *modalities],
        **({"datasets": [_slug(one["name"]) for one in corpus["sources"]]} if corpus.get("sources") else {}),
    }


def _what(facts: Mapping[str, Any]) -> list[str]:
    training = facts["training"]
    origin = {
        "random": "It began with random weights.",
        "hub": f"It began as {escape(training['base']['name'])}.",
        "folder": f"It began with the weights of a local folder named {escape(training['base']['name'])}.",
    }[training["base"]["kind"]]
    return [
        "## What it is",
        "A vision-language model that is asked about one medical picture: it reasons, gives the box of what it speaks of in numbers, "
        f"and answers. {escape(facts['architecture'])}, {facts['parameters']:,} parameters, trained with MedCLM (localisation "
        f"curriculum over boxes, implicit localisation and weak supervision). {origin} This is step {training['step']:,} of "
        f"{training['steps']:,}. Plain transformers opens it.",
    ]


def _use(corpus: Mapping[str, Any] | None) -> list[str]:
    seen = listed(corpus["modalities"]) if corpus else "the kind that it was trained on"
    return [
        "## Use",
        f"Meant for research on grounded question answering, on pictures of {seen}, and for comparing ways of training.",
        "Not meant for diagnosis, triage, treatment or any other decision about a person, nor for pictures, languages and questions "
        "of other kinds than those below. A box or a fluent reason is no evidence that the answer is right.",
    ]


_TRAIN_ROWS = {
    "global_batch_size": "records a step, over all ranks",
    "lr": "peak learning rate (AdamW, cosine)",
    "min_lr": "last learning rate",
    "warmup_fraction": "share of the steps that warm up",
    "weight_decay": "weight decay",
    "betas": "betas",
    "clip": "largest gradient norm",
    "precision": "precision (auto: bf16 where an accelerator has it, else float32)",
    "answer_weight": "weight of the answer's loss, Easy and Medium",
    "rationale_weight": "weight of the reasoning's loss, Easy and Medium",
    "hard_weight": "weight of the answer's loss, Hard",
    "normalization": "loss averaged over",
}
"""Keys of `train` that a card shows, and how."""


def _training(facts: Mapping[str, Any]) -> list[str]:
    training = facts["training"]
    lora = training["lora"]
    settings = ", ".join(f"{code(name)} {value}" for name, value in training["policy_settings"].items())
    rows = [
        ("steps", f"{training['step']:,} of {training['steps']:,}"),
        *((what, escape(training["train"][key])) for key, what in _TRAIN_ROWS.items()),
        ("curriculum policy", escape(training["policy"])),
        ("its settings", settings or "none"),
        ("frozen", listed(training["frozen"]) or "nothing"),
        ("LoRA", f"rank {lora['rank']}, alpha {lora['alpha']:g}, merged into the weights" if lora else "none"),
        ("ranks", str(training["ranks"])),
        ("seed", str(training["seed"])),
        ("versions", listed(f"{name} {version}" for name, version in facts["versions"].items())),
    ]
    return [
        "## How it was trained",
        "Three stages, mixed by the policy: **Easy** shows the box on the picture and asks for reasoning that gives the box, and the "
        "answer; **Medium** asks the same without the box; **Hard** shows another patient's picture of the same domain and asks for "
        f"the answer alone. Boxes with a side under {training['min_side']:g} pixels of the model's square were left out.",
        table(("what", "value"), rows),
    ]


def _asking(asking: Mapping[str, Any]) -> list[str]:
    section, example, side = asking["box_text"], asking["example"], asking["side"]
    (width, height), box = example["size"], ", ".join(f"{edge:g}" for edge in example["box_px"])
    square = {"pad": "centred on a black square", "stretch": "both sides stretched"}[asking["fit"]]
    frame = {
        "padded": "of the square that the model sees, padding included",
        "original": "of the picture as given",
        "resized": "of the picture as resized, without padding",
    }[section["frame"]]
    unit = "in its pixels" if section["scale"] == "px" else f"from 0 to {section['scale']}"
    return [
        "## How to ask it",
        f"- Picture: 8-bit RGB, whole, {square}, then {side} x {side} pixels. The folder's own image processor treats what is not square "
        f"in another way: make the square first.{_views(asking)}\n"
        f'- Question: one sentence, a line break, and how to answer: "{asking["instructions"]["reason"]}" or '
        f'"{asking["instructions"]["direct"]}". A direct completion begins with "{asking["begins"]["direct"]}", and no loss taught the '
        "model to write that: end the prompt with it.\n"
        f"- To point at a region, outline it on the square, {asking['pointing']['line_px']} px wide, and name the colour in the question "
        f"(the red box): {', '.join(asking['pointing']['colours'])}\n"
        '- Reply: "Reasoning: ... [x0, y0, x1, y1] ..." and, after an empty line, "Answer: ..."; what follows the last "Answer:" is the '
        "answer. A reply without it answers nothing.\n"
        f"- Boxes: [x0, y0, x1, y1], x to the right, y down, {unit} {frame}, decimals: {section['digits']}. In a picture of {width} x "
        f"{height} pixels the model writes `{example['written']}` for the box [{box}] in pixels.",
        "This asks about `picture.png` and reads the boxes back; it needs transformers, torch and Pillow:",
        f"```python\n{asking['code']}```",
    ]


def _views(asking: Mapping[str, Any]) -> str:
    """What else is done with the square; nothing where the model sees it as it is (cards from before it could be otherwise)."""
    if asking.get("tiles", "1") == "1":
        return ""
    side = asking["side"] // 2
    return (
        f" The model sees it as five pictures of {side} x {side}: the square made smaller, then its quarters, left to right and top to "
        "bottom. The prompt has one image token for each, in this order."
    )


def _evaluation(evaluations: Sequence[Mapping[str, Any]]) -> list[str]:
    if not evaluations:
        return ["## Evaluation", "Not evaluated yet."]
    words = [
        "## Evaluation",
        "Intervals are 95 % bootstrap intervals over patients. The floor is the best guess that does not look at the picture: a score "
        "near it shows nothing.",
    ]
    for one in evaluations:
        words += _scores(one)
    return words


def _scores(one: Mapping[str, Any]) -> list[str]:
    shown = ", grey pictures instead of the real ones" if one["blank"] else ""
    drawn = "" if one["limit"] is None else f", a draw of at most {one['limit']:,}"
    left_out = "".join(f"; left out: {n:,} {escape(reason)}" for reason, n in one["left_out"].items())
    rows = [
        (code(name), _number(score["value"]), _interval(score["ci95"]), _number(score["floor"]), f"{score['n']:,}")
        for name, score in one["scores"].items()
    ]
    return [
        f"### {escape(one['suite'])} on {escape(one['benchmark'])}, split {escape(one['split'])}",
        f"{one['n']:,} questions{drawn}{shown}; asked to {escape(one['instruction'])}, judged by {escape(one['profile'])} in "
        f"{escape(one['month'])}{left_out}.",
        table(("score", "value", "95 % interval", "floor", "n"), rows) if rows else "No example had a score.",
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _interval(ci95: Sequence[float] | None) -> str:
    return "none" if ci95 is None else f"{ci95[0]:.3f} to {ci95[1]:.3f}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "unknown"


__all__ = ["CARD", "FACTS", "FORMAT", "NOTICE", "evaluation", "render_card", "training_facts", "with_evaluations"]
