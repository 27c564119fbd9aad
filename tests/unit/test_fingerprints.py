"""Near-duplicates: which copies are recognised, which pictures are not, and that the fast search equals the slow one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medclm.corpus.fingerprints import (
    Fingerprints,
    aligned_correlation,
    correlation,
    fingerprint,
    same_exposure,
    thumbnail,
)
from medclm.corpus.near_duplicates import SHORTLIST_BITS, equal_pairs, near_duplicate_groups, shortlist


def scene(seed, height=240, width=200):
    """Soft random structure at several scales, like tissue."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width))
    for side, weight in ((4, 60), (9, 40), (25, 20), (80, 6)):
        coarse = Image.fromarray(rng.normal(size=(side, side)).astype(np.float32))
        total += weight * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def jpeg(pixels, quality=60):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def bits_apart(first, second):
    return int(np.bitwise_count(fingerprint(first).bits ^ fingerprint(second).bits).sum())


def matches(first, second):
    return bits_apart(first, second) <= SHORTLIST_BITS and same_exposure(thumbnail(first), thumbnail(second))


COPIES = {
    "jpeg": jpeg,
    "half": lambda p: resized(p, p.shape[1] // 2, p.shape[0] // 2),
    "three quarters": lambda p: resized(p, p.shape[1] * 3 // 4, p.shape[0] * 3 // 4),
    "stretched to a square": lambda p: resized(p, 224, 224),
    "brighter": lambda p: np.clip(p.astype(int) + 25, 0, 255).astype(np.uint8),
    "less contrast": lambda p: np.rint(p * 0.6 + 30).astype(np.uint8),
    "cropped": lambda p: p[3:-2, 2:-2],
    "cropped at one corner": lambda p: p[4:, 4:],
    "padded": lambda p: np.pad(p, ((0, 0), (20, 20))),
    "in colour": lambda p: np.stack([p, p, p], axis=-1),
}


@pytest.mark.parametrize("name", COPIES)
def test_an_altered_copy_is_recognised(name):
    for seed in range(6):
        picture = scene(seed)
        assert matches(picture, COPIES[name](picture)), (name, seed)


def test_other_pictures_mirrored_and_inverted_ones_are_not():
    scenes = [scene(seed) for seed in range(12)]
    for i, one in enumerate(scenes):
        assert not matches(one, one[:, ::-1])
        assert not matches(one, 255 - one)
        assert not any(matches(one, other) for other in scenes[:i])


def test_a_crop_is_found_by_alignment_alone():
    picture = scene(3)
    pair = thumbnail(picture), thumbnail(picture[5:, 4:])
    assert correlation(*pair) < 0.98 <= aligned_correlation(*pair)


def test_the_exact_hash_sees_one_pixel_and_the_shape():
    picture = scene(0)
    changed = picture.copy()
    changed[7, 9] ^= 1
    prints = [fingerprint(p).exact for p in (picture, changed, picture.reshape(200, 240), np.stack([picture] * 3, axis=-1))]
    assert len(set(prints[:3])) == 3
    assert prints[3] == prints[0]


def test_flat_pictures_match_nothing_not_even_themselves():
    flat = np.full((60, 80), 17, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 2, flat.shape, dtype=np.uint8)
    prints = Fingerprints.stack(map(fingerprint, [flat, flat, noisy, scene(0), scene(0)]))
    assert prints.flat.tolist() == [True, True, True, False, False]
    assert equal_pairs(prints).tolist() == [[3, 4]]
    assert np.concatenate([pairs for _, pairs in shortlist(prints)]).tolist() == [[3, 4]]
    assert correlation(thumbnail(flat), thumbnail(flat)) == 0


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint16), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(ValueError, match=r"give uint8 \(H, W\) or \(H, W, 3\)"):
        fingerprint(pixels)


def random_prints(rng, count):
    bits = rng.integers(0, 2**63, (count, 4), dtype=np.uint64)
    return Fingerprints(rng.integers(0, 3, (count, 2), dtype=np.uint64), bits, rng.random(count) < 0.1)


@pytest.mark.parametrize("within", [False, True])
def test_the_blocked_search_finds_what_the_naive_one_finds(within, monkeypatch):
    monkeypatch.setattr("medclm.corpus.near_duplicates._BLOCK", (7, 11))
    rng = np.random.default_rng(5)
    first = random_prints(rng, 60)
    first.bits[40:50] = first.bits[:10] ^ np.uint64(0b1011)
    second = first if within else random_prints(rng, 45)
    second.bits[3:9] = first.bits[20:26] ^ np.uint64(1)

    def naive(near):
        return [
            [i, j]
            for i in range(len(first))
            for j in range(i + 1 if within else 0, len(second))
            if not first.flat[i] and not second.flat[j] and near(i, j)
        ]

    def distance(i, j):
        return sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(first.bits[i], second.bits[j], strict=True))

    blocks = list(shortlist(first, None if within else second, most_bits=100))
    assert sum(rows for rows, _ in blocks) == 60
    assert sorted(np.concatenate([pairs for _, pairs in blocks]).tolist()) == naive(lambda i, j: distance(i, j) <= 100)
    expected = naive(lambda i, j: (first.exact[i] == second.exact[j]).all())
    assert equal_pairs(first, None if within else second).tolist() == expected
    assert len(expected) > 10


def test_groups_join_copies_of_copies_and_leave_one_owner_alone():
    pictures = [scene(0), scene(1), jpeg(scene(0)), scene(2), scene(0)[3:-3, 3:-3], scene(1), scene(3), jpeg(scene(3))]
    prints = Fingerprints.stack(map(fingerprint, pictures))
    asked = []

    def pixels(number):
        asked.append(number)
        return pictures[number]

    groups = near_duplicate_groups(prints, pixels)
    assert [group.tolist() for group in groups] == [[0, 2, 4], [1, 5], [6, 7]]
    assert 3 not in asked, "only pictures on the shortlist are decoded again"
    one_patient = near_duplicate_groups(prints, pixels, owner=[0, 1, 2, 3, 4, 5, 9, 9])
    assert [group.tolist() for group in one_patient] == [[0, 2, 4], [1, 5]]
    assert near_duplicate_groups(Fingerprints.stack([]), pixels) == []
