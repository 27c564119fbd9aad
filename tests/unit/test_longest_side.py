"""Corpora of shrunk pictures: what a model sees of them, and that everything that is said of a picture stays true."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from medclm.config import DataSection
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.contract import LinkedAnnotation, LinkedImage, SourceAnnotation, SourceImage
from medclm.corpus.ids import Ids
from medclm.corpus.longest_side import shown_part, within
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.frame import ImageFrame
from medclm.data.manifest import longest_side
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.testing import tiny_processor
from medclm.types import Box, Stage

NUMBER = re.compile(r"\d\.\d{3}")


class Films:
    """Noisy pictures of one size with one lesion each."""

    name = "films"
    rejects = ()

    def __init__(self, size: tuple[int, int], *, count: int = 6, colour: bool = False) -> None:
        self.size, self.count, self.colour = size, count, colour

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> SourceImage:
        width, height = self.size
        draw = np.random.default_rng(index)
        pixels = draw.integers(20, 90, size=(height, width, 3) if self.colour else (height, width)).astype(np.uint8)
        box = Box(round(0.25 * width), round(0.3 * height), round(0.55 * width), round(0.7 * height))
        mask = np.zeros((height, width), bool)
        mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
        pixels[mask] += 120
        return SourceImage(
            index=f"images[{index}]",
            key=f"{index}.png",
            pixels=pixels,
            source=self.name,
            licence="CC BY 4.0",
            shareable=True,
            annotations=(SourceAnnotation("annotations[0]", "mass", "mass", box, mask=mask),),
            patient=f"p{index}",
            modality="CT",
            spacing_mm=(0.5, 0.25),
            label_scope=("mass",),
        )


def corpus_of(source: Films, out: Path, longest_side: int | None = None) -> Corpus:
    # near-duplicates are looked for in the pictures as stored, and these differ by noise, which shrinking takes away
    settings = {"images_per_part": 4, "progress": False, "near_duplicates": False}
    options = BuildOptions(ids=Ids(b"0123456789abcdef"), longest_side=longest_side, **settings)
    build(source, TemplateWriter(), out, options)
    return Corpus(out)


def linked(size: tuple[int, int], mask: np.ndarray | None = None, box: Box | None = None) -> LinkedImage:
    image = Films(size).read(0)
    source = image.annotations[0]
    source = replace(source, mask=source.mask if mask is None else mask, box_px=box or source.box_px)
    return LinkedImage(image, (LinkedAnnotation(source, "lesion", None, "unknown", None, {}),))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [(100, 100), (261, 261), (160, 130), (97, 211), (301, 202), (640, 37)])
def test_the_model_sees_the_very_same(tmp_path: Path, size: tuple[int, int], colour: bool) -> None:
    """Also where a border falls within a pixel, and where whole pixels are averaged first."""
    processor = tiny_processor()
    source = Films(size, colour=colour)
    full, small = corpus_of(source, tmp_path / "full"), corpus_of(source, tmp_path / "small", processor.image_size)
    assert max(small.picture(0).size) == 32
    renderers = [Renderer(corpus, processor, DataSection(), seed=0) for corpus in (full, small)]
    assert full.count("records") == small.count("records") > 0
    seen = 0
    for row in range(full.count("records")):
        offered = full.row("records", row)
        for stage in Stage:
            if offered[f"question_{stage.key}"]:
                (before, encoded), (after, again) = (renderer.render(row, row, stage) for renderer in renderers)
                assert before.image.tobytes() == after.image.tobytes()
                assert np.array_equal(encoded.pixel_values, again.pixel_values)
                texts, same = ("\n".join((one.question, one.rationale, one.answer)) for one in (before, after))
                assert NUMBER.sub("", texts) == NUMBER.sub("", same)
                written, read = ([float(number) for number in NUMBER.findall(text)] for text in (texts, same))
                np.testing.assert_allclose(read, written, atol=0.00101)  # half a thousandth may be rounded either way
                seen += 1
    assert seen > 10


def test_all_that_is_stored_of_a_picture_shrinks_together(tmp_path: Path) -> None:
    source = Films((120, 90))
    full, small = corpus_of(source, tmp_path / "full"), corpus_of(source, tmp_path / "small", 40)
    before, after = full.row("images", 0), small.row("images", 0)
    assert (after["width"], after["height"]) == small.picture(0).size == (40, 32)  # a blurred line above and below
    assert (before["original_size"], after["original_size"]) == (None, [120, 90])
    assert after["spacing_mm"] == [1.5, 0.75]
    same = set(before) - {"image", "width", "height", "original_size", "spacing_mm"}
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    for row in range(full.count("annotations")):
        one, other = full.row("annotations", row), small.row("annotations", row)
        frames = ImageFrame(120, 90, side=40, fit="pad"), ImageFrame(40, 32, side=40, fit="pad")
        boxes = [frame.to_square_px(Box(*row.pop("box_xyxy_unit"))) for frame, row in zip(frames, (one, other), strict=True)]
        np.testing.assert_allclose(*boxes, atol=1e-5)
        rle, shrunk = one.pop("mask_rle"), other.pop("mask_rle")
        assert one == other
        if rle:
            mask = coco_mask.decode(json.loads(shrunk))
            assert mask.shape == (32, 40)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == (10, 10, 22, 22)
    assert [full.row("records", row) for row in range(full.count("records"))] == [
        small.row("records", row) for row in range(small.count("records"))
    ]


def test_a_picture_that_is_small_enough_stays() -> None:
    image = linked((64, 40))
    assert within(image, None) is image
    assert within(image, 64) is image
    assert within(image, 65) is image


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(16, 700))
def test_placed_again_all_lies_where_it_lay(width: int, height: int, side: int) -> None:
    """The stored part is centred as it was, holds the image, and ends less than three pixels beyond it."""
    before = ImageFrame(width, height, side=side, fit="pad")
    left, upper, right, lower = shown_part(before)
    after = ImageFrame(right - left, lower - upper, side=side, fit="pad")
    placed, whole = after.to_square_px(Box(0, 0, 1, 1)), before.to_square_px(Box(0, 0, 1, 1))
    np.testing.assert_allclose(placed, (left, upper, right, lower), atol=1e-9)
    if max(width, height) >= side:
        assert all(-1e-9 <= inner - outer < 1.5 for inner, outer in zip(whole[:2], placed[:2], strict=True))
        assert all(-1e-9 <= outer - inner < 2.5 for inner, outer in zip(whole[2:], placed[2:], strict=True))


def test_a_lesion_under_a_pixel_keeps_a_mask() -> None:
    mask = np.zeros((90, 120), bool)
    mask[50, 70] = True
    small = within(linked((120, 90), mask, Box(70, 50, 71, 51)), 12)
    (source,) = (one.source for one in small.annotations)
    assert small.image.pixels.shape == (10, 12)  # half a pixel of padding above and below
    assert np.argwhere(source.mask).tolist() == [[5, 7]]
    np.testing.assert_allclose(source.box_px, (7.0, 5.5, 7.1, 5.6))


def test_no_model_with_a_larger_square_trains_on_it(tmp_path: Path) -> None:
    small = corpus_of(Films((100, 80)), tmp_path / "small", 32)
    settings = {"split": "train", "seed": 0, "window": 8, "min_side": 0.0, "fit": "pad"}
    assert len(Stream(small, image_size=32, **settings).order) > 0
    with pytest.raises(ValueError, match=r"data\.corpus=.*shrunk to 32 px.*looks at 48 px: build it with --longest-side 48"):
        Stream(small, image_size=48, **settings)


def test_the_manifest_says_so_also_of_several_builds(tmp_path: Path) -> None:
    assert corpus_of(Films((100, 80)), tmp_path / "small", 32).manifest["builder"]["longest_side"] == 32
    assert longest_side({"builder": {"builds": [{"longest_side": 64}, {"longest_side": 48}, {}]}}) == 48
    assert longest_side({"builder": {"builds": [{}]}}) is None
    assert longest_side({}) is None
    with pytest.raises(ValueError, match="--longest-side 8: give at least 16 pixels"):
        BuildOptions(ids=Ids(b"0123456789abcdef"), longest_side=8)
