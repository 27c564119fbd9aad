"""Box rules of peers: what is written comes back within half a step, and is what the peer itself would make of the box."""

from __future__ import annotations

import ast
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.config import BoxTextSection
from medclm.corpus.exchange.box_text import (
    PADDED,
    PIXELS,
    QWEN_2_5,
    RULES,
    THOUSANDTHS,
    UNIT,
    fill,
    in_order,
    place,
    smart_resize,
)
from medclm.corpus.sources.detection import RefusedAnnotation
from medclm.data.frame import ImageFrame
from medclm.types import Box

SIDES = st.integers(28, 3000)
EDGES = st.floats(0, 1, width=32)


def half_step(name: str, digits: int, size: tuple[int, int]) -> tuple[float, float]:
    """By hand: half of the last digit of each rule, across and down, as a share of the picture."""
    width, height = size
    of_peer = smart_resize(size)
    across, down = {
        "unit": (1, 1),
        "pixels": (width, height),
        "padded": (width / max(size), height / max(size)),
        "thousandths": (1000, 1000),
        "qwen2.5-vl": of_peer,
    }[name]
    return 0.5 * 10**-digits / across, 0.5 * 10**-digits / down


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
@settings(max_examples=60)
@given(st.tuples(SIDES, SIDES), st.tuples(EDGES, EDGES, EDGES, EDGES), st.sampled_from([None, 2, 6]))
def test_a_written_box_comes_back_within_half_a_step(rule, size, edges, digits) -> None:  # type: ignore[no-untyped-def]
    x0, x1, y0, y1 = *sorted(edges[:2]), *sorted(edges[2:])
    rule = rule.with_digits(digits)
    across, down = half_step(rule.name, rule.section.digits, size)
    if x1 <= x0 or y1 <= y0:
        return
    found: list[Box] = []
    text = place(f"At {rule.write(Box(x0, y0, x1, y1), size)}.", found, rule, size)
    assert text == "At <box:0>."
    for stated, read, half in zip((x0, y0, x1, y1), found[0], (across, down, across, down), strict=True):
        thin = x1 - x0 < 2.1 * across or y1 - y0 < 2.1 * down
        # edges that round to one number are written a step apart, so one of them moves by up to a step and a half
        assert abs(stated - read) <= half * (3 if thin else 1) + 1e-12
    assert place(rule.write(Box(x0, y0, x1, y1), size), found, rule, size) == "<box:0>"


def test_rules_on_a_picture_of_two_to_one() -> None:
    box, size = Box(0.25, 0.25, 0.5, 0.75), (400, 200)
    assert UNIT.write(box, size) == "[0.2500, 0.2500, 0.5000, 0.7500]"
    assert PIXELS.write(box, size) == "[100.00, 50.00, 200.00, 150.00]"
    assert PADDED.write(box, size) == "[0.250, 0.375, 0.500, 0.625]"  # the picture is the middle half of its square
    assert PADDED.with_digits(2).write(Box(0.1, 0.1, 0.9, 0.9), (200, 200)) == "[0.10, 0.10, 0.90, 0.90]"
    assert THOUSANDTHS.write(box, size) == "[250, 250, 500, 750]"
    assert smart_resize(size) == (392, 196)
    assert QWEN_2_5.write(box, size) == "[98, 49, 196, 147]"


def test_llava_boxes_are_those_of_our_own_training() -> None:
    box, size = Box(0.123, 0.234, 0.345, 0.456), (60, 120)
    assert PADDED.write(box, size) == ImageFrame(*size, side=336, fit="pad").write(box, BoxTextSection())


def smart_resize_of_transformers() -> Callable[..., tuple[int, int]]:
    """The function as transformers has it; its module cannot be imported without torchvision."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "models" / "qwen2_vl" / "image_processing_qwen2_vl.py"
    function = next(
        node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef) and node.name == "smart_resize"
    )
    names: dict[str, Callable[..., tuple[int, int]]] = {}
    exec(compile(ast.Module([function], []), str(source), "exec"), {"math": math}, names)
    return names["smart_resize"]


def test_the_size_a_qwen_model_sees_is_that_of_its_processor() -> None:
    theirs = smart_resize_of_transformers()
    for width, height in [(28, 28), (40, 50), (55, 57), (64, 64), (100, 700), (512, 512), (767, 769), (28, 700), (43, 29)]:
        assert smart_resize((width, height)) == theirs(height=height, width=width)[::-1]
    # over 768 * 768 pixels LLaMA-Factory shrinks first: 2000 x 1000 -> 1086 x 543
    assert smart_resize((2000, 1000)) == theirs(height=543, width=1086)[::-1] == (1092, 532)


def test_a_lesion_thinner_than_a_step_keeps_an_area() -> None:
    tiny = Box(0.5, 0.9999, 0.5001, 1.0)
    assert THOUSANDTHS.write(tiny, (100, 100)) == "[500, 999, 501, 1000]"
    found: list[Box] = []
    assert place(THOUSANDTHS.write(tiny, (100, 100)), found, THOUSANDTHS, (100, 100)) == "<box:0>"
    assert found[0].area > 0


def test_coarser_numbers_are_the_same_box_and_others_a_new_one() -> None:
    found = [Box(0.123, 0.2, 0.5, 0.6)]
    assert place("[0.12, 0.20, 0.50, 0.60] and [0.3, 0.2, 0.5, 0.6]", found, UNIT, (1, 1)) == "<box:0> and <box:1>"
    assert found[1] == (0.3, 0.2, 0.5, 0.6)


@pytest.mark.parametrize(
    ("rule", "text", "reason"),
    [
        (PADDED, "[12, 20, 40, 50]", "box_not_unit"),
        (PADDED, "[0.1, 0.0, 0.2, 0.2]", "box_outside"),  # in the padding of a picture twice as wide as high
        (THOUSANDTHS, "[100, 200, 400, 1200]", "box_not_unit"),
        (QWEN_2_5, "[10, 20, 500, 100]", "box_not_unit"),
        (UNIT, "[0.5, 0.5, 0.2, 0.9]", "box_zero_area"),
        (UNIT, "[0.5, 0.5, 0.5, 0.9]", "box_zero_area"),
    ],
)
def test_numbers_of_another_frame_are_refused(rule, text, reason) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RefusedAnnotation) as refusal:
        place(text, [], rule, (400, 200))
    assert refusal.value.reason == reason


def test_a_placeholder_without_its_box_is_an_error() -> None:
    assert in_order("<box:2> and <box:0> and <box:2>") == [2, 0, 2]
    with pytest.raises(ValueError, match=r"names <box:1>, the record has 1 annotation"):
        fill("<box:1>", [Box(0, 0, 1, 1)], str)
