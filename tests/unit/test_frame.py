"""Boxes drawn, written and read back through one frame; the visual prompt on the square."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from medclm.config import BoxTextSection
from medclm.data.draw import COLOURS, Style, draw_prompt, style_for
from medclm.data.frame import ImageFrame
from medclm.types import Box

FRAMES, SCALES = ("padded", "original", "resized"), ("1", "100", "1000", "px")
DIGITS = {"1": 4, "100": 2, "1000": 1, "px": 2}
"""Enough that rounding moves a corner by less than half a pixel, 4:1 included."""
SIZES = [(100, 400), (400, 100), (301, 200), (256, 256), (97, 388), (1600, 1201)]


def section(frame: Any = "padded", scale: Any = "1", digits: int = 3) -> BoxTextSection:
    return BoxTextSection(frame=frame, scale=scale, digits=digits)


@st.composite
def unit_boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.floats(0, 0.95)), draw(st.floats(0, 0.95))
    return Box(x0, y0, draw(st.floats(x0 + 0.04, 1)), draw(st.floats(y0 + 0.04, 1)))


@given(unit_boxes(), st.sampled_from(SIZES), st.sampled_from([64, 336, 1024]), st.sampled_from(["pad", "stretch"]))
@settings(max_examples=200)
def test_round_trip_in_every_frame_and_scale(box: Box, size: tuple[int, int], side: int, fit: Any) -> None:
    frame = ImageFrame(*size, side=side, fit=fit)
    square = frame.to_square_px(box)
    assert all(-1e-9 <= edge <= side + 1e-9 for edge in square)
    np.testing.assert_allclose(frame.from_square_px(square), box, atol=1e-9)
    for name, scale in itertools.product(FRAMES, SCALES):
        how = section(name, scale, DIGITS[scale])
        text = frame.write(box, how)
        (back,) = frame.find_boxes(f"a mass at {text}.", how)
        error = np.abs(np.subtract(frame.to_square_px(back), square)).max()
        assert error < 0.5, (name, scale, text, error)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_what_is_seen_is_where_the_transform_says(size: tuple[int, int], fit: Any) -> None:
    """A white rectangle of the stored image, found again by its pixels in the square."""
    width, height = size
    image = Image.new("RGB", size)
    px = Box(width // 4, height // 3, width * 3 // 4, height * 5 // 6)
    ImageDraw.Draw(image).rectangle((px.x0, px.y0, px.x1 - 1, px.y1 - 1), fill="white")
    frame = ImageFrame(*size, side=336, fit=fit)
    bright = np.asarray(frame.place(image).convert("L")) > 127
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    seen = Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    np.testing.assert_allclose(seen, frame.to_square_px(px.scaled(1 / width, 1 / height)), atol=0.51)


def test_padding_is_black_centred_and_nothing_is_cropped() -> None:
    frame = ImageFrame(200, 100, side=64, fit="pad")
    picture = np.asarray(frame.place(Image.new("RGB", (200, 100), (255, 255, 255))))
    assert picture.shape == (64, 64, 3)
    assert picture[:14].max() == 0
    assert picture[50:].max() == 0
    assert picture[18:46].min() > 250
    same = Image.new("RGB", (64, 64), "red")
    assert ImageFrame(64, 64, side=64, fit="pad").place(same).tobytes() == same.tobytes()
    with pytest.raises(ValueError, match="64 x 64 pixels, its row says 200 x 100"):
        frame.place(same)


def test_shrinking_does_not_alias() -> None:
    """One-pixel stripes become their mean, not a pattern."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(ImageFrame(512, 512, side=64, fit="pad").place(Image.fromarray(stripes)), dtype=float)
    assert small[4:-4, 4:-4].std() < 3
    assert abs(small.mean() - 127.5) < 3


@pytest.mark.parametrize(
    ("how", "text"),
    [
        (section(), "[0.250, 0.375, 0.750, 0.500]"),
        (section("original"), "[0.250, 0.250, 0.750, 0.500]"),
        (section("resized"), "[0.250, 0.250, 0.750, 0.500]"),
        (section("padded", "1000", 0), "[250, 375, 750, 500]"),
        (section("padded", "100", 0), "[25, 38, 75, 50]"),
        (section("padded", "px", 0), "[84, 126, 252, 168]"),
        (section("original", "px", 0), "[100, 50, 300, 100]"),
        (section("resized", "px", 1), "[84.0, 42.0, 252.0, 84.0]"),
    ],
)
def test_the_written_form(how: BoxTextSection, text: str) -> None:
    frame = ImageFrame(400, 200, side=336, fit="pad")
    assert frame.write(Box(0.25, 0.25, 0.75, 0.5), how) == text


def test_stretched_frames_are_all_the_unit_image() -> None:
    frame, box = ImageFrame(400, 200, side=336, fit="stretch"), Box(0.25, 0.25, 0.75, 0.5)
    assert {frame.write(box, section(name)) for name in FRAMES} == {"[0.250, 0.250, 0.750, 0.500]"}
    assert frame.write(box, section("resized", "px", 0)) == "[84, 84, 252, 168]"


def test_float32_edges_are_written_inside_the_frame() -> None:
    frame = ImageFrame(100, 100, side=64, fit="pad")
    assert frame.write(Box(-1e-9, -0.0, 1.0000001, 1.0), section()) == "[0.000, 0.000, 1.000, 1.000]"


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [0.1, 0.2, 0.3],
        [0.1] * 5,
        [0.5, 0.1, 0.2, 0.9],
        [0.1, 0.4, 0.9, 0.4],
        [float("nan"), 0, 1, 1],
        [0, 0, float("inf"), 1],
        [0, 0, 300, 400],
        [-1.0, 0, 1, 1],
        [0.2, 0.05, 0.6, 0.2],
    ],
)
def test_what_is_no_box(numbers: list[float]) -> None:
    """The last one lies in the padding alone."""
    assert ImageFrame(400, 200, side=64, fit="pad").parse(numbers, section()) is None


def test_a_box_that_leaves_the_image_is_clipped() -> None:
    frame = ImageFrame(400, 200, side=64, fit="pad")
    assert frame.parse([0.5, 0.1, 1.1, 0.5], section()) == pytest.approx(Box(0.5, 0, 1, 0.5))


def test_boxes_are_found_in_free_text() -> None:
    text = "Two: [0.1,0.2, .3 ,0.4] and [[0.5, 0.6, 0.7, 0.8]], not [1, 2], [0.1, 0.2, 0.3], [a, b, c, d], [0.9, 0.9, 0.1, 0.1] or [0.1, 0.2, 0.3, 0.4, 0.5]."
    boxes = ImageFrame(64, 64, side=64, fit="pad").find_boxes(text, section())
    assert boxes == [pytest.approx(Box(0.1, 0.2, 0.3, 0.4)), pytest.approx(Box(0.5, 0.6, 0.7, 0.8))]
    assert ImageFrame(64, 64, side=64, fit="pad").find_boxes("[" + "9" * 500 + ", 1, 1, 1] [" * 200, section()) == []


@pytest.mark.parametrize(("side", "line", "width"), [(64, 3.0, 1), (64, 14.0, 3), (336, 3.0, 3), (336, 14.0, 14)])
def test_the_drawn_outline_is_the_box(side: int, line: float, width: int) -> None:
    grey, style = Image.new("RGB", (side, side), (90, 90, 90)), Style("red", (255, 0, 0), 255, line)
    box = Box(side * 0.21, side * 0.3, side * 0.68, side * 0.93)
    drawn = np.asarray(draw_prompt(grey, box, style))
    red = (drawn == (255, 0, 0)).all(-1)
    columns, rows = np.flatnonzero(red.any(0)), np.flatnonzero(red.any(1))
    np.testing.assert_allclose((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), box, atol=0.5)
    middle = red[round((box.y0 + box.y1) / 2)]
    assert middle.sum() == 2 * width
    assert (drawn[~red] == 90).all()
    assert np.asarray(grey).std() == 0  # the picture itself is untouched


@pytest.mark.parametrize("box", [Box(0, 0, 1, 1), Box(335.7, 335.7, 336, 336), Box(-3, 100, 340, 108), Box(10, 10, 18, 18)])
def test_tiny_and_border_boxes_keep_their_inside(box: Box) -> None:
    drawn = np.asarray(draw_prompt(Image.new("RGB", (336, 336)), box, Style("green", (0, 255, 0), 255, 3.0)))[..., 1] > 0
    assert drawn.any()
    if box.height >= 8:
        top, bottom = round(box.y0), round(box.y1)
        assert not drawn[top + 2 : bottom - 2, 170 if box.x0 < 0 else 14].any()


def test_styles_cover_the_habit_and_depend_on_the_position_alone() -> None:
    styles = [style_for(0, position) for position in range(2000)]
    assert {style.colour_name for style in styles} == {name for name, _ in COLOURS}
    assert min(style.alpha for style in styles) == 96
    assert max(style.alpha for style in styles) == 255
    assert style_for(0, 7) == styles[7] != style_for(1, 7)
    assert min(style_for(0, position, opacity=192).alpha for position in range(500)) == 192
    half = np.asarray(draw_prompt(Image.new("RGB", (64, 64)), Box(8, 8, 40, 40), Style("red", (255, 0, 0), 96, 3.0)))
    assert half.max() == 96
