"""The closing of masks by shifted integers equals the one by distance transforms, and its windows lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medclm.corpus.box_masks import box_mask, is_box
from medclm.corpus.closing import close_mask
from medclm.corpus.regions import OrganMask, Region, gap, least_gap, share
from medclm.types import Box
from tests.drawn_anatomy import disc


def oracle_closing(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation and erosion by thresholds of Euclidean distance, then holes filled by labelling all of the background."""
    padded = np.pad(mask, radius + 1)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = (ndimage.distance_transform_edt(grown) > radius) | padded
    background, _ = ndimage.label(~closed)
    return (background != background[0, 0])[radius + 1 : -radius - 1, radius + 1 : -radius - 1]


masks = (
    st.tuples(st.integers(1, 23), st.integers(1, 23)).flatmap(lambda shape: arrays(bool, shape)).filter(lambda mask: mask.any())
)


@settings(max_examples=300)
@given(mask=masks, radius=st.integers(1, 7))
def test_closing_equals_distance_transforms(mask, radius):
    assert np.array_equal(close_mask(mask, radius), oracle_closing(mask, radius))


@pytest.mark.parametrize("radius", [1, 2, 10])
def test_closing_of_rings_spirals_and_combs_equals_distance_transforms(radius):
    y, x = np.mgrid[:80, :80] - 40.0
    angle, far = np.arctan2(y, x), np.hypot(x, y)
    ring = (far < 30) & (far > 12)
    spiral = (np.abs(far - 5 * (angle + np.pi)) < 2) | (np.abs(far - 5 * (angle + 3 * np.pi)) < 2)
    comb = (np.arange(80)[None, :] % 9 < 3) | (np.arange(80)[:, None] > 70)
    for mask in (ring, spiral, comb, ring & ~((x > 0) & (np.abs(y) < 3))):
        assert np.array_equal(close_mask(mask, radius), oracle_closing(mask, radius))


def test_closing_fills_holes_and_bays_but_joins_no_neighbours():
    organ = disc(48, 48, 30)
    holed = organ & ~disc(48, 48, 10) & ~disc(78, 48, 2)
    assert np.count_nonzero(close_mask(holed, 2) ^ organ) <= 8
    two = disc(25, 48, 12) | disc(72, 48, 12)
    assert not close_mask(two, 2)[48, 48]


@settings(max_examples=200)
@given(
    mask=arrays(bool, (20, 24)).filter(lambda mask: mask.any()), other=arrays(bool, (20, 24)).filter(lambda mask: mask.any())
)
def test_windows_lose_nothing(mask, other):
    """A closed organ is looked at only where it can meet a region; areas, shares and gaps are those of whole arrays."""
    organ, region = OrganMask("liver", None, mask, 2), Region(other)
    closed = oracle_closing(mask, 2)
    assert np.array_equal(organ.closed.mask, closed)
    assert organ.closed.window == organ.region.window
    assert organ.share_of(region) == np.count_nonzero(closed & other) / np.count_nonzero(other) == share(region, organ.closed)
    ys, xs = np.nonzero(mask)
    window = region.window
    assert window.slices == (slice(np.nonzero(other)[0].min(), np.nonzero(other)[0].max() + 1), window.slices[1])
    pixels = [(y, x) for y in range(window.top, window.bottom) for x in range(window.left, window.right)]
    nearest = min(np.hypot(ys - y, xs - x).min() for y, x in pixels)
    assert gap(window, organ.region) == pytest.approx(nearest)
    assert least_gap(window, organ.region.window) <= nearest + 1e-9
    for axis in (0, 1):
        assert region.centre(axis) == pytest.approx(np.nonzero(other)[1 - axis].mean() + 0.5)


def test_a_box_is_a_mask_that_says_so_and_is_never_closed():
    mask = box_mask(Box(2.2, 3.0, 9.6, 3.1), (12, 8))
    assert is_box(mask)
    assert np.argwhere(mask != 0).tolist() == [[3, x] for x in range(2, 10)]
    organ = OrganMask("lung", "left", mask[:, ::-1].copy(), 3)
    assert organ.is_box
    assert organ.closed is organ.region
    assert organ.region.area == 8
    assert not OrganMask("lung", "left", mask != 0, 3).is_box
