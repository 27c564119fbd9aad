"""Small datasets as files, for the tests of sources: pictures of one grey, COCO and VOC around them, and the real sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.contract import RejectedImage, Source, SourceImage
from medclm.corpus.sources.coco import CocoSource
from medclm.corpus.sources.detection import RefusedAnnotation
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.voc import VocSource

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


WIDTH, HEIGHT = 40, 30


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), 99, dtype=np.uint8)).save(path, **options)
    return path


def mask_file(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8)).save(path)
    return path


def options(**declared: Any) -> SourceOptions:
    return SourceOptions(**{"name": "made", "reports_deidentified": True, **declared})


def coco(
    root: Path, annotations: list[Any], images: list[Any] | None = None, declared: SourceOptions | None = None
) -> CocoSource:
    """A COCO file about `a.png` (or `images`) with classes 1 = Nodule, 2 = Big_Mass."""
    if not (root / "images").exists():
        picture(root / "images" / "a.png")
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}] if images is None else images,
        "categories": [{"id": 1, "name": "Nodule"}, {"id": 2, "name": "Big_Mass"}],
        "annotations": annotations,
    }
    (root / "boxes.json").write_text(json.dumps(tree), encoding="utf-8")
    return CocoSource(root / "boxes.json", root / "images", declared or options())


def lesion(bbox: Any = (5, 6, 7, 8), **fields: Any) -> dict[str, Any]:
    box = {} if bbox is None else {"bbox": list(bbox) if isinstance(bbox, tuple) else bbox}
    return {"image_id": 1, "category_id": 1, **box, **fields}


def reasons(image: SourceImage) -> list[str]:
    return [reject.reason for reject in image.rejects]


def outcome(call: Callable[[], Any]) -> Any:
    """What the call returns, or the reason for which it refuses."""
    try:
        return call()
    except RefusedAnnotation as refused:
        return refused.reason


def refusal(source: Source, index: int = 0) -> RejectedImage:
    with pytest.raises(RejectedImage) as caught:
        source.read(index)
    return caught.value


def half(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[:, : width // 2] = 3
    return mask


def voc_object(name: str = "RBC", corners: str = "6 7 12 14", extra: str = "") -> str:
    x0, y0, x1, y1 = corners.split()
    box = f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
    return f"<object><name>{name}</name>{extra}{box}</object>"


def voc_xml(
    path: Path, *objects: str, size: tuple[int, int] = (WIDTH, HEIGHT), filename: str = "a.png", head: str = ""
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    text = f"{head}<annotation><filename>{filename}</filename><path>/etc/hostname</path>{sizes}{''.join(objects)}</annotation>"
    path.write_text(text, encoding="utf-8")


def voc(root: Path, **declared: Any) -> VocSource:
    return VocSource(root / "xml", root / "images", options(**declared))


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    return DATA / name


def read_all(source: Source) -> list[SourceImage]:
    return [source.read(index) for index in range(len(source))]
