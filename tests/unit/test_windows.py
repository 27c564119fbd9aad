"""Windows: what each class is shown in, and the map to 8 bits against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from medclm.corpus.windows import (
    BONE,
    LIVER,
    LUNG,
    MULTI3,
    SOFT_TISSUE,
    SUBDURAL,
    apply_window,
    choose_window,
    mr_window,
    show_ct,
)


@pytest.mark.parametrize(
    ("classes", "organs", "window"),
    [
        (["lung nodule"], ["liver"], LUNG),
        (["liver tumor"], [], LIVER),
        (["rib fracture"], ["lung"], BONE),
        (["subdural hemorrhage"], ["brain"], SUBDURAL),
        (["lesion"], ["liver", "lung"], LIVER),
        (["lesion"], ["kidney left"], SOFT_TISSUE),
        (["lesion"], ["unheard of"], (1.0, 2.0)),
    ],
)
def test_class_before_organ_before_header(classes, organs, window):
    assert choose_window(classes, organs, (1.0, 2.0)) == window


def test_nothing_known_gives_no_window():
    assert choose_window(["lesion"], [], None) is None


def test_the_map_is_linear_and_clipped():
    values = np.array([[-2000, -1350, -600, 150, 3000]], np.float32)
    expected = [[min(max(round((v + 1350) / 1500 * 255), 0), 255) for v in values[0]]]
    assert apply_window(values, LUNG).tolist() == expected


def test_three_windows_are_three_channels():
    values = np.array([[-800, 40, 700]], np.float32)
    pixels, stored = show_ct(values, LUNG, "multi3")
    assert pixels.shape == (1, 3, 3)
    assert stored == tuple(number for window in MULTI3 for number in window)
    for channel, window in enumerate(MULTI3):
        assert pixels[..., channel].tolist() == apply_window(values, window).tolist()
    assert show_ct(values, LUNG, "single")[1] == LUNG


def test_mr_is_shown_by_percentiles_of_its_foreground():
    rng = np.random.default_rng(0)
    volume = np.concatenate([rng.normal(5, 1, 5000), rng.uniform(100, 200, 5000), [10_000.0, np.nan]])
    centre, width = mr_window(volume)
    assert centre - width / 2 == pytest.approx(100, abs=2)
    assert centre + width / 2 == pytest.approx(200, abs=2)
    assert mr_window(np.zeros((3, 3)))[1] > 0
