"""What is in a corpus, for a person: counts, balance of the Hard stage, sizes, rejects and samples, as text or as one page.

Everything comes from the stored files through `Corpus`, chunk by chunk. Knows nothing of how the corpus was made.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from medclm.data.draw import COLOURS
from medclm.data.schema import SPLITS
from medclm.data.shards import Corpus
from medclm.types import Box

NOTICE = "Research use only, not a medical device."
STAGES = ("easy", "medium", "hard")
MAJORITY_LIMIT = 0.8
"""A share of one answer above this is warned of: the Hard question could be answered without looking."""
_SIZE_EDGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 1.0)
_LONGEST_TEXT = 400


@dataclass
class Balance:
    """Hard answers of one domain and question kind."""

    answers: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Share of the commonest answer, 0..1."""
        return max(self.answers.values()) / self.answers.total()


@dataclass
class Summary:
    """Counts of a corpus."""

    tables: dict[str, int]
    per_split: dict[str, Counter[str]]
    """Name of a column -> value -> records, for split, domain, question_kind, language and writer."""
    stages: dict[str, Counter[str]]
    """Stage -> answer type -> records that offer it."""
    hard: dict[tuple[str, str], Balance]
    sizes: Counter[str]
    """Short side of lesion boxes as a share of the image side."""
    rejects: Counter[str]
    patients: dict[str, int]
    images: dict[str, Counter[str]]
    """modality, source -> images."""

    @property
    def majority_share(self) -> float | None:
        """Share of Hard answers equal to the commonest one of their domain and kind; None without a Hard stage."""
        total = sum(balance.answers.total() for balance in self.hard.values())
        return sum(max(balance.answers.values()) for balance in self.hard.values()) / total if total else None

    def warnings(self) -> list[str]:
        """What a person should know before training."""
        found = []
        for (domain, kind), balance in sorted(self.hard.items()):
            # the class itself is constant in a domain by definition; it varies over the domains of one image
            if balance.share > MAJORITY_LIMIT and kind != "what" and balance.answers.total() > 1:
                answer, _ = balance.answers.most_common(1)[0]
                found.append(
                    f"{domain}, {kind}: {balance.share:.0%} of the Hard answers are {answer!r} (limit {MAJORITY_LIMIT:.0%})"
                )
        found += [f"split {split} is empty" for split in SPLITS if not self.per_split["split"][split]]
        return found


def summarise(corpus: Corpus) -> Summary:
    """Count everything once."""
    grouped = ("split", "domain", "question_kind", "language", "writer")
    per_split: dict[str, Counter[str]] = {name: Counter() for name in grouped}
    stages: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    hard: dict[tuple[str, str], Balance] = defaultdict(Balance)
    image_split: dict[int, str] = {}
    types = [f"answer_type_{stage}" for stage in STAGES]
    for batch in corpus.scan("records", [*grouped, *types, "answer_hard", "image_row"]):
        columns = batch.to_pydict()
        for name in grouped:
            per_split[name].update(columns[name])
        for stage in STAGES:
            stages[stage].update(kind for kind in columns[f"answer_type_{stage}"] if kind is not None)
        for domain, kind, answer in zip(columns["domain"], columns["question_kind"], columns["answer_hard"], strict=True):
            if answer is not None:
                hard[domain, kind].answers[answer.strip().lower()] += 1
        image_split.update(zip(columns["image_row"], columns["split"], strict=True))
    patients, images = _images(corpus, image_split)
    return Summary(
        tables={kind: corpus.count(kind) for kind in ("images", "studies", "annotations", "records")},
        per_split=per_split,
        stages=stages,
        hard=dict(hard),
        sizes=_sizes(corpus),
        rejects=Counter(corpus.manifest.get("rejects", {})),
        patients=patients,
        images=images,
    )


def _sizes(corpus: Corpus) -> Counter[str]:
    counts: Counter[str] = Counter()
    for batch in corpus.scan("annotations", ["box_xyxy_unit", "box_role"]):
        boxes = [box for box, role in zip(*batch.to_pydict().values(), strict=True) if role == "lesion" and box is not None]
        if boxes:
            edges = np.asarray(boxes, np.float64)
            short = np.minimum(edges[:, 2] - edges[:, 0], edges[:, 3] - edges[:, 1])
            for low, high in itertools.pairwise(_SIZE_EDGES):
                counts[f"{low:.0%} to {high:.0%}"] += int(((short > low) & (short <= high)).sum())
    return counts


def _images(corpus: Corpus, image_split: dict[int, str]) -> tuple[dict[str, int], dict[str, Counter[str]]]:
    patients: dict[str, set[str]] = {split: set() for split in SPLITS}
    counts: dict[str, Counter[str]] = {"modality": Counter(), "source": Counter()}
    row = 0
    for batch in corpus.scan("images", ["patient", "modality", "source"]):
        columns = batch.to_pydict()
        for patient in columns["patient"]:
            if row in image_split:
                patients[image_split[row]].add(patient)
            row += 1
        counts["modality"].update(str(value or "unknown") for value in columns["modality"])
        counts["source"].update(columns["source"])
    return {split: len(found) for split, found in patients.items()}, counts


def text_report(corpus: Corpus, *, samples: int = 0) -> str:
    """The summary, and the first `samples` records of the first split that has any, as readable lines."""
    summary = summarise(corpus)
    lines = [str(corpus.folder), f"  licence: {corpus.manifest.get('licence', 'unknown')}    {NOTICE}"]
    for title, rows in _tables(corpus, summary):
        lines += ["", title]
        width = max((len(name) for name, _ in rows), default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in rows]
    lines += [f"warning: {warning}" for warning in summary.warnings()]
    for row in _first_records(corpus, samples):
        lines += ["", *_sample_lines(corpus, row)]
    return "\n".join(lines)


def _tables(corpus: Corpus, summary: Summary) -> list[tuple[str, list[tuple[str, str]]]]:
    """(title, [(name, value)]) in reading order."""
    splits = [(s, f"{summary.per_split['split'][s]} records of {summary.patients[s]} patients") for s in SPLITS]
    domains = [
        (entry["name"], "  ".join(f"{split} {entry['counts'].get(split, 0)}" for split in SPLITS))
        for entry in corpus.manifest["domains"]
    ]
    stages = [
        (stage, f"{kinds.total()} records (" + ", ".join(f"{name} {n}" for name, n in sorted(kinds.items())) + ")")
        for stage, kinds in summary.stages.items()
    ]
    share = summary.majority_share
    hard = [] if share is None else [("equal to the commonest answer of domain and kind", f"{share:.1%}")]
    hard += [
        (f"{domain}, {kind}", f"{balance.share:.0%} {balance.answers.most_common(1)[0][0]!r} of {balance.answers.total()}")
        for (domain, kind), balance in sorted(summary.hard.items())
        if kind in ("presence", "count")
    ]
    hard.append(("records without a partner", str(corpus.manifest.get("hard", {}).get("without_partner", "unknown"))))
    return [
        ("tables", _counted(summary.tables.items())),
        ("splits", splits),
        ("domains", domains),
        ("question kinds", _counted(summary.per_split["question_kind"].most_common())),
        ("stages offered (by answer type)", stages),
        ("Hard answers", hard),
        ("lesions by short side / image side", _counted(summary.sizes.items())),
        ("images by modality", _counted(summary.images["modality"].most_common())),
        ("images by source", _counted(summary.images["source"].most_common())),
        ("writers", _counted(summary.per_split["writer"].most_common())),
        ("rejects by reason", _counted(summary.rejects.most_common()) or [("none", "0")]),
    ]


def _counted(pairs: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    return [(str(name), str(count)) for name, count in pairs]


def _first_records(corpus: Corpus, count: int) -> list[int]:
    """Rows of the first records of train, else val, else test."""
    for split in SPLITS:
        files = corpus.record_files(split)
        if files:
            first, rows = files[0]
            return list(range(first, first + min(rows, count)))
    return []


def _sample_lines(corpus: Corpus, row: int) -> list[str]:
    record = corpus.row("records", row)
    lines = [f"record {row}  {record['domain']}  {record['question_kind']}  {record['split']}  image row {record['image_row']}"]
    for stage in STAGES:
        if record[f"question_{stage}"] is None:
            continue
        where = f" (image row {record['hard_image_row']})" if stage == "hard" else ""
        lines.append(f"  {stage}{where}")
        lines += [f"    {part[0].upper()}: {record[name]}" for part, name in _fields(stage) if record.get(name)]
    return lines


def _fields(stage: str) -> list[tuple[str, str]]:
    return [(part, f"{part}_{stage}") for part in ("question", "rationale", "answer")]


_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1b1f;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}.notice{border-left:4px solid #b3261e;padding:.3rem .8rem;background:#fdf0ef}
.warning{border-left:4px solid #b06f00;padding:.3rem .8rem;background:#fdf6e7}
table{border-collapse:collapse}td,th{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}td:last-child{font-variant-numeric:tabular-nums}
.tables{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:0 2rem}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}
figure{margin:0;border:1px solid #d6d6dc;border-radius:6px;padding:.6rem}figure img{width:100%;height:14rem;object-fit:contain;background:#111;image-rendering:auto}
figcaption{font-size:.85rem}figcaption p{margin:.35rem 0;overflow-wrap:anywhere}.role{color:#5f5f68}"""


def write_report(corpus: Corpus, path: Path, *, samples_per_stage: int = 6) -> None:
    """Write the page: one file without scripts or references; every text escaped; equal corpora give equal bytes."""
    summary = summarise(corpus)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>Corpus report</title><style>{_STYLE}</style></head><body><h1>Corpus report</h1>",
        f"<p class='notice'>{NOTICE} Licence: {_escape(corpus.manifest.get('licence', 'unknown'))}</p>",
    ]
    parts += [f"<p class='warning'>{_escape(warning)}</p>" for warning in summary.warnings()]
    parts.append("<div class='tables'>")
    for title, rows in _tables(corpus, summary):
        cells = "".join(f"<tr><td>{_escape(name)}</td><td>{_escape(value)}</td></tr>" for name, value in rows)
        parts.append(f"<section><h2>{_escape(title)}</h2><table>{cells}</table></section>")
    parts.append("</div>")
    for stage in STAGES:
        parts.append(f"<h2>{stage.capitalize()} samples</h2><div class='sheet'>")
        parts += [_figure(corpus, row, stage) for row in _spread(corpus, stage, samples_per_stage)]
        parts.append("</div>")
    parts.append("</body></html>\n")
    path.write_text("".join(parts), encoding="utf-8")


def _escape(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _spread(corpus: Corpus, stage: str, count: int) -> list[int]:
    """Rows that offer a stage, one of each domain and kind first, in row order."""
    seen: Counter[tuple[str, str]] = Counter()
    ranked: list[tuple[int, int]] = []
    row = 0
    for batch in corpus.scan("records", ["domain", "question_kind", f"question_{stage}"]):
        for domain, kind, question in zip(*batch.to_pydict().values(), strict=True):
            if question is not None and seen[domain, kind] < count:
                ranked.append((seen[domain, kind], row))
                seen[domain, kind] += 1
            row += 1
    return sorted(row for _, row in sorted(ranked)[:count])


def _figure(corpus: Corpus, row: int, stage: str) -> str:
    record = corpus.row("records", row)
    picture, alt = _rendered(corpus, record, stage)
    colour = COLOURS[0][0]
    texts = "".join(
        f"<p><span class='role'>{part}</span> {_escape(_short(str(record[name]).replace('{color}', colour)))}</p>"
        for part, name in _fields(stage)
        if record.get(name)
    )
    head = _escape(f"{record['domain']} · {record['question_kind']} · {record['split']} · record {row}")
    return f"<figure><img alt='{_escape(alt)}' src='data:image/png;base64,{_base64(picture)}'><figcaption><p class='role'>{head}</p>{texts}</figcaption></figure>"


def _rendered(corpus: Corpus, record: dict[str, Any], stage: str) -> tuple[Image.Image, str]:
    """The picture of a record at a stage, with what it shows in words."""
    if stage == "hard":
        return corpus.picture(record["hard_image_row"]), "partner image"
    if stage == "medium":
        return corpus.picture(record["image_row"]), "image without a box"
    if record["easy_image_row"] >= 0:
        return corpus.picture(record["easy_image_row"]), "image with a box drawn by its source"
    boxes = boxes_of(corpus, record["annotation_rows"])
    return outlined(corpus.picture(record["image_row"]), boxes[:1], COLOURS[0][1]), "image with a box"


def boxes_of(corpus: Corpus, annotation_rows: Sequence[int]) -> list[Box]:
    """Unit boxes of annotations that have one."""
    rows = corpus.rows("annotations", annotation_rows, ["box_xyxy_unit"])
    return [Box(*row["box_xyxy_unit"]) for row in rows if row["box_xyxy_unit"] is not None]


def outlined(picture: Image.Image, boxes_unit: Iterable[Box], rgb: tuple[int, int, int]) -> Image.Image:
    """A copy of a picture with outlines whose outer edges are the boxes' edges."""
    drawn = picture.copy()
    for box in boxes_unit:
        left, top, right, bottom = box.scaled(*picture.size)
        corners = (round(left), round(top), max(round(left), round(right) - 1), max(round(top), round(bottom) - 1))
        width = max(1, min(round(3 * max(picture.size) / 336), round(min(right - left, bottom - top)) // 4))
        ImageDraw.Draw(drawn).rectangle(corners, outline=rgb, width=width)
    return drawn


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _base64(picture: Image.Image, *, longest: int = 320) -> str:
    picture.thumbnail((longest, longest))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def rejects_of(corpus: Corpus) -> list[dict[str, str]]:
    """The lines of rejects.jsonl."""
    path = corpus.folder / "rejects.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
