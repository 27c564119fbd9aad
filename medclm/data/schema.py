"""The stored corpus: columns of its four kinds of Arrow files and its manifest. Knows nothing of models or sources.

A corpus folder holds `manifest.json`, `<kind>-*.arrow` (Arrow IPC stream format, each opens with
`datasets.load_dataset("arrow", data_files=...)`), `rejects.jsonl` and `report.html`. Rows refer to rows by number within
their kind, counted over its files in manifest order (= sorted by path); -1 means none. Unknown is null, never a guess.
"""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = "1.1"
"""major.minor; a reader refuses a newer major version."""

MANIFEST = "manifest.json"
KINDS = ("images", "studies", "annotations", "records")
SPLITS = ("train", "val", "test")
QUESTION_KINDS = ("presence", "what", "where", "which_organ", "count", "compare", "size", "describe")
ANSWER_TYPES = ("closed", "open", "choice")
BOX_ROLES = ("lesion", "control")
RELATIONS = ("inside", "borders", "adjacent", "projects_over", "unknown")

_STAGE_COLUMNS: dict[str, Any] = {}
for _stage in ("easy", "medium", "hard"):
    _STAGE_COLUMNS[f"question_{_stage}"] = "string"
    if _stage != "hard":
        _STAGE_COLUMNS[f"rationale_{_stage}"] = "string"
    _STAGE_COLUMNS[f"answer_{_stage}"] = "string"
    _STAGE_COLUMNS[f"answers_{_stage}"] = ["string"]
    _STAGE_COLUMNS[f"answer_type_{_stage}"] = "string"

COLUMNS: dict[str, dict[str, Any]] = {
    "images": {
        "image_id": "string",
        "image": "image",
        "width": "int32",
        "height": "int32",
        "patient": "string",  # HMAC, as are study and series
        "study": "string",
        "series": "string",
        "order_in_patient": "int32",
        "prior_image_row": "int64",
        "origin": "string",  # HMAC of the picture's id in the collection it first came from; null = none known
        "origin_patient": "string",
        "modality": "string",  # DICOM code: DX, CT, MR, US, SM, ES, ...
        "technique": "string",
        "view": "string",
        "plane": "string",  # frontal, lateral, axial, coronal, sagittal, oblique, none
        "patient_directions": "string",  # patient direction of +x then +y of the pixels, "L\\P"; null = unknown
        "spacing_mm": ["float32"],  # row spacing, column spacing
        "window": ["float32"],  # centre, width
        "original_size": ["int32"],  # width, height before any resize
        "attributes": "string",  # JSON: sex, age decade, manufacturer, site
        "source": "string",
        "licence": "string",
        "shareable": "bool",
        "official_split": "string",
        "label_scope": ["string"],  # classes annotated exhaustively; empty = unknown
        "image_labels": "string",  # JSON: class -> present | absent | uncertain | not assessed
    },
    "studies": {
        "study": "string",
        "patient": "string",
        "indication": "string",
        "technique": "string",
        "comparison": "string",
        "findings": "string",
        "impression": "string",
        "language": "string",
        "sentences": "string",  # JSON list: text, label, boxes, polarity
    },
    "annotations": {
        "annotation_id": "string",
        "image_row": "int64",
        "class_source": "string",
        "lesion_class": "string",
        "box_xyxy_unit": ["float32"],  # of the stored image, or null
        "box_role": "string",
        "mask_rle": "string",  # JSON {"size": [h, w], "counts": str}, COCO's compressed run lengths
        "lesion_3d": "string",
        "agreement": "float32",
        "organ": "string",
        "organ_relation": "string",
        "organ_score": "float32",
        "facts": "string",  # JSON
    },
    "records": {
        "record_id": "string",
        "task": "string",
        "image_row": "int64",
        "annotation_rows": ["int64"],
        "easy_image_row": "int64",  # -1 unless an already drawn image was imported
        "question_kind": "string",
        "language": "string",
        "domain": "string",
        "split": "string",
        "writer": "string",
        "claims": "string",  # JSON
        "hard_image_row": "int64",
        "hard_annotation_row": "int64",
        **_STAGE_COLUMNS,
    },
}
"""kind -> column -> type: a scalar name, "image", or [scalar] for a list."""


def features(kind: str) -> Any:
    """`datasets.Features` of a kind; imported lazily, since reading for training needs pyarrow alone."""
    from datasets import Features, Image, List, Value

    def one(kind_of: Any) -> Any:
        if isinstance(kind_of, list):
            return List(Value(kind_of[0]))
        return Image() if kind_of == "image" else Value(kind_of)

    return Features({name: one(kind_of) for name, kind_of in COLUMNS[kind].items()})
