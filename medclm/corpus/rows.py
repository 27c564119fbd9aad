"""What the steps of a build pass on -> rows of a part, with the source's ids hashed and its fields on an allow-list.

Nothing else of a source enters a corpus. Knows no files and no row numbers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from medclm.corpus.contract import Draft, LinkedAnnotation, LinkedImage, Reject, SourceImage, StageText
from medclm.corpus.fingerprints import fingerprint
from medclm.corpus.ids import Ids
from medclm.corpus.parts import PartRow
from medclm.corpus.pixels import encode_png

ATTRIBUTES = ("sex", "age_decade", "manufacturer", "site")
"""What may be kept of `SourceImage.attributes`; everything else is left out."""
_REPORT_FIELDS = ("indication", "technique", "comparison", "findings", "impression", "language")


def reject_row(reject: Reject) -> PartRow:
    return PartRow("reject", reject.index, {"index": reject.index, "reason": reject.reason, "detail": reject.detail})


def image_rows(linked: LinkedImage, drafts: Iterable[Draft], ids: Ids, *, fingerprints: bool = False) -> list[PartRow]:
    """An image with its study, annotations and records as rows of a part; ids are hashed here.

    Bodies hold the columns of data/schema.py except row numbers. In their place an annotation has `image`, a record has
    `index`, `image`, `annotations`, `easy_image`, `lend` (its Hard texts for others) and `hard` (a stated pairing, or None). An
    image has `index`, `patient_known` and `fingerprint` beside its columns, the last only where near-duplicates are to be found.
    """
    image = linked.image
    image_id = ids.make("image", image.source, image.key)
    patient = _patient_id(image, ids)
    study = _study_id(image, ids)
    body = _image_body(image, image_id, patient, study, ids)
    body["patient_known"] = image.patient is not None
    body["fingerprint"] = fingerprint(image.pixels).to_hex() if fingerprints else None
    rows = [PartRow("image", image_id, body, encode_png(image.pixels))]
    if image.report:
        report = {name: image.report.get(name) for name in _REPORT_FIELDS}
        rows.append(PartRow("study", study or "", {"study": study, "patient": patient, **report, "sentences": None}))
    names = [ids.make("annotation", image.source, f"{image.key}#{number}") for number in range(len(linked.annotations))]
    size = image.pixels.shape[1], image.pixels.shape[0]
    for name, annotation in zip(names, linked.annotations, strict=True):
        rows.append(PartRow("annotation", name, _annotation_body(annotation, name, image_id, size, image, ids)))
    met: Counter[str] = Counter()
    for draft in drafts:
        # what it asks and of whom, not its place among the others: a verdict on it holds in the next build too
        identity = f"{image.key}#{draft.question_kind}#{draft.domain}#{list(draft.annotations)}#{draft.writer}"
        record_id = ids.make("record", image.source, f"{identity}#{met[identity]}")
        met[identity] += 1
        rows.append(PartRow("record", record_id, _record_body(draft, record_id, image_id, names, image.index)))
    return rows


def _patient_id(image: SourceImage, ids: Ids) -> str:
    if image.patient is None:
        return ids.make("patient of image", image.source, image.key)
    return ids.make("patient", image.source, image.patient)


def _study_id(image: SourceImage, ids: Ids) -> str | None:
    if image.study is not None:
        return ids.make("study", image.source, json.dumps([image.patient, image.study]))
    return ids.make("study of image", image.source, image.key) if image.report else None


def _image_body(image: SourceImage, image_id: str, patient: str, study: str | None, ids: Ids) -> dict[str, Any]:
    attributes = {name: image.attributes[name] for name in ATTRIBUTES if name in image.attributes}
    return {
        "image_id": image_id,
        "index": image.index,
        "width": int(image.pixels.shape[1]),
        "height": int(image.pixels.shape[0]),
        "patient": patient,
        "study": study,
        "series": None
        if image.series is None
        else ids.make("series", image.source, json.dumps([image.patient, image.study, image.series])),
        "order_in_patient": image.order_in_patient,
        # not keyed by source: two sources that took from one collection give the same
        "origin": None if image.origin is None else ids.make("origin", "", image.origin),
        "origin_patient": None if image.origin_patient is None else ids.make("origin patient", "", image.origin_patient),
        "modality": image.modality,
        "technique": image.technique,
        "view": image.view,
        "plane": image.plane,
        "patient_directions": image.patient_directions,
        "spacing_mm": _list(image.spacing_mm),
        "window": _list(image.window),
        "original_size": _list(image.original_size),
        "attributes": _json(attributes),
        "source": image.source,
        "licence": image.licence,
        "shareable": bool(image.shareable),
        "official_split": image.official_split,
        "label_scope": list(image.label_scope),
        "image_labels": _json(image.image_labels),
    }


def _annotation_body(
    annotation: LinkedAnnotation, name: str, image_id: str, size: tuple[int, int], image: SourceImage, ids: Ids
) -> dict[str, Any]:
    source = annotation.source
    box = source.box_px.scaled(1 / size[0], 1 / size[1])
    lesion = None
    if source.lesion_3d is not None and annotation.box_role == "lesion":
        lesion = ids.make("lesion", image.source, json.dumps([image.patient, source.lesion_3d]))
    return {
        "annotation_id": name,
        "image": image_id,
        "class_source": source.class_source,
        "lesion_class": source.lesion_class,
        "box_xyxy_unit": [min(max(float(edge), 0.0), 1.0) for edge in box],
        "box_role": annotation.box_role,
        "mask_rle": None if source.mask is None else _mask_rle(source.mask),
        "lesion_3d": lesion,
        "agreement": _float(source.agreement),
        "organ": annotation.organ,
        "organ_relation": annotation.organ_relation,
        "organ_score": _float(annotation.organ_score),
        "facts": _json(annotation.facts),
    }


def _record_body(draft: Draft, record_id: str, image_id: str, names: list[str], index: str) -> dict[str, Any]:
    return {
        "record_id": record_id,
        "index": index,
        "task": draft.task,
        "image": image_id,
        "annotations": [names[number] for number in draft.annotations],
        "easy_image": None,
        "question_kind": draft.question_kind,
        "language": draft.language,
        "domain": draft.domain,
        "writer": draft.writer,
        "claims": _json(draft.claims),
        "easy": stage_body(draft.easy),
        "medium": stage_body(draft.medium),
        "lend": stage_body(draft.lend),
        "hard": None,
    }


def stage_body(text: StageText | None) -> dict[str, Any] | None:
    """The texts of a stage by column stem."""
    if text is None:
        return None
    return {
        "question": text.question,
        "rationale": text.rationale,
        "answer": text.answer,
        "answers": list(text.answers),
        "answer_type": text.answer_type,
    }


def _mask_rle(mask: np.ndarray) -> str:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return json.dumps({"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")})


def _float(number: float | None) -> float | None:
    return None if number is None else float(number)


def _list(numbers: Iterable[float] | None) -> list[float] | None:
    return None if numbers is None else [number.item() if isinstance(number, np.generic) else number for number in numbers]


def _json(value: Any) -> str:
    def plain(one: Any) -> Any:
        if isinstance(one, np.generic | np.ndarray):
            return one.tolist()
        if isinstance(one, Mapping):
            return dict(one)
        if isinstance(one, set | frozenset):
            return sorted(one)
        raise TypeError(f"{type(one).__name__} in facts or claims cannot be stored")

    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=plain)
