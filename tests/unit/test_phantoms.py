"""Phantoms are ground truth for other tests, so their own truth is proved here: purity, balance, geometry, sides, texts."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from medclm.corpus.contract import Source, SourceImage
from medclm.corpus.organs import allows, is_projection, row_for
from medclm.corpus.phantom_anatomy import CLASSES, LONGEST, LOOKS, SHORTEST, SIDE_LIMITS, SMALL_SIDES
from medclm.corpus.phantom_lesions import draw_lesion
from medclm.corpus.phantoms import Phantom, draw_phantom, patient_of, tight_box
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.draws import generator

COUNT = 600


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [draw_phantom(seed=3, index=index, size=128, small_lesions=False) for index in range(COUNT)]


@pytest.fixture(scope="module")
def images() -> list[SourceImage]:
    source = PhantomSource(180, seed=3)
    return [source.read(index) for index in range(len(source))]


def digest(source: PhantomSource, index: int) -> str:
    image = source.read(index)
    arrays = [image.pixels, *image.organs.values(), *(one.mask for one in image.annotations)]
    arrays += [] if image.intensity is None else [image.intensity]
    words = repr((image.key, image.patient, image.report, [(one.lesion_class, one.box_px) for one in image.annotations]))
    return hashlib.sha256(words.encode() + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def test_same_bytes_in_another_process_and_order() -> None:
    here = [digest(PhantomSource(40, seed=5, size=96), index) for index in range(12)]
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('own', sys.argv[1])\n"
        "own = importlib.util.module_from_spec(spec); spec.loader.exec_module(own)\n"
        "source = own.PhantomSource(12, seed=5, size=96)\n"
        "print('\\n'.join([own.digest(source, index) for index in reversed(range(12))][::-1]))\n"
    )
    there = subprocess.run([sys.executable, "-c", program, __file__], capture_output=True, text=True, check=True).stdout.split()
    assert here == there


def test_every_argument_counts() -> None:
    base = digest(PhantomSource(9), 4)
    others = [PhantomSource(9, seed=1), PhantomSource(9, size=64), PhantomSource(9, small_lesions=True)]
    assert len({base, *(digest(other, 4) for other in others), digest(PhantomSource(9), 5)}) == 5
    assert base == digest(PhantomSource(1000), 4)


def test_is_a_picklable_source() -> None:
    source: Source = pickle.loads(pickle.dumps(PhantomSource(7, seed=2)))
    assert (source.name, len(source)) == ("phantoms", 7)
    assert digest(source, 3) == digest(PhantomSource(7, seed=2), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [-1, 7])
def test_index_outside(index: int) -> None:
    with pytest.raises(IndexError, match="of 7"):
        PhantomSource(7).read(index)


@pytest.mark.parametrize(("arguments", "said"), [({"count": 0}, "count = 0"), ({"count": 1, "size": 32}, "size = 32")])
def test_wrong_arguments(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PhantomSource(**arguments)


def test_class_tells_neither_organ_nor_look_nor_side(phantoms: list[Phantom]) -> None:
    firsts = [(phantom, phantom.lesions[0]) for phantom in phantoms if phantom.lesions]
    for trait in (
        lambda phantom, lesion: lesion.organ,
        lambda phantom, lesion: (phantom.look.modality, phantom.look.plane, phantom.look.technique),
        lambda phantom, lesion: lesion.side,
        lambda phantom, lesion: phantom.mirrored,
    ):
        counts = Counter((lesion.lesion_class, trait(phantom, lesion)) for phantom, lesion in firsts)
        columns = sorted({column for _, column in counts}, key=str)
        table = [[counts[name, column] for column in columns] for name in CLASSES]
        assert chi2_contingency(table).pvalue > 1e-3, (columns, table)


def test_classes_and_organs_are_balanced(phantoms: list[Phantom]) -> None:
    lesions = [lesion for phantom in phantoms for lesion in phantom.lesions]
    classes, organs = Counter(one.lesion_class for one in lesions), Counter(one.organ for one in lesions)
    assert set(classes) == set(CLASSES)
    assert len(CLASSES) == 5
    assert all(0.14 < count / len(lesions) < 0.26 for count in classes.values()), classes
    assert 6 <= len(organs) <= 8
    assert max(organs.values()) / len(lesions) < 0.32, organs
    pairs = Counter((one.lesion_class, one.organ) for one in lesions)
    assert sum(pairs[name, organ] >= 5 for name in CLASSES for organ in organs) >= 20
    assert {phantom.look.modality for phantom in phantoms} == {"DX", "CT", "MR", "US"}


def test_class_is_plausible_in_every_host() -> None:
    """Linking must not rule a drawn host out."""
    for look in (look for pictures in LOOKS for look in pictures):
        assert set(look.contrast) == set(CLASSES)
        assert sum(look.host_weights.values()) == pytest.approx(1)
        for name in CLASSES:
            row = row_for(name, source="phantoms", projection=is_projection(look.modality, look.plane))
            assert all(allows(row, organ) for organ in look.host_weights), (look.title, name)


def test_number_of_lesions(phantoms: list[Phantom]) -> None:
    shares = Counter(len(phantom.lesions) for phantom in phantoms)
    assert set(shares) == {0, 1, 2, 3}
    # None in the drawn 8 %: a first lesion always finds room (four standard errors).
    assert abs(shares[0] / COUNT - 0.08) < 4 * np.sqrt(0.08 * 0.92 / COUNT)
    assert 0.7 < shares[1] / COUNT < 0.92
    repeats = [len({one.lesion_class for one in phantom.lesions}) == 1 for phantom in phantoms if len(phantom.lesions) == 2]
    assert 0.3 < np.mean(repeats) < 0.85


def test_boxes_are_tight_and_sized(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for lesion in phantom.lesions:
            x0, y0, x1, y1 = (int(number) for number in lesion.box_px)
            outside = lesion.mask.copy()
            outside[y0:y1, x0:x1] = False
            assert not outside.any()
            inside = lesion.mask[y0:y1, x0:x1]
            assert all(border.any() for border in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            for side in (lesion.box_px.width / 128, lesion.box_px.height / 128):
                assert SIDE_LIMITS[0] <= side <= SIDE_LIMITS[1]


def test_lesions_lie_in_their_host_and_apart(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for lesion in phantom.lesions:
            host = phantom.organs[lesion.organ_mask]
            assert (lesion.mask & host).sum() >= 0.6 * lesion.mask.sum()
        assert np.sum([lesion.mask for lesion in phantom.lesions], axis=0).max(initial=0) <= 1
        assert np.sum(list(phantom.organs.values()), axis=0).max() <= 1


def test_small_lesions() -> None:
    shown = [draw_phantom(seed=1, index=index, size=size, small_lesions=True) for size in (64, 128) for index in range(60)]
    lesions = [(phantom.pixels.shape[0], lesion) for phantom in shown for lesion in phantom.lesions]
    assert len(lesions) > 100
    assert {lesion.lesion_class for _, lesion in lesions} == set(CLASSES)
    for size, lesion in lesions:
        for side in (lesion.box_px.width / size, lesion.box_px.height / size):
            assert 0.0199 < SHORTEST * SMALL_SIDES[0] <= side <= LONGEST * SMALL_SIDES[1] < 0.0601


def test_lesions_of_a_given_size() -> None:
    given = PhantomSource(60, seed=1, size=128, lesion_sides=(0.10, 0.20))
    plain = PhantomSource(60, seed=1, size=128)
    lesions = [lesion for index in range(60) for lesion in given.truth(index)]
    sides = np.array([max(one.box_px.width, one.box_px.height) for one in lesions]) / 128
    assert len(lesions) > 50
    assert {one.lesion_class for one in lesions} == set(CLASSES)
    assert 0.067 < sides.min() < 0.12 < 0.17 < sides.max() < 0.219
    assert given.read(5).key != plain.read(5).key
    for index in range(5):  # organs are drawn before lesions: equal whatever the lesions' size
        ours, theirs = given.read(index), plain.read(index)
        assert ours.patient == theirs.patient
        assert all(np.array_equal(ours.organs[name], theirs.organs[name]) for name in theirs.organs)


@pytest.mark.parametrize("sides", [(0.2, 0.1), (0.0, 0.1), (0.1, 0.5)])
def test_sizes_that_cannot_be_drawn_are_refused(sides: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"lesion_sides = .*at most 0\.345"):
        PhantomSource(9, lesion_sides=sides)
    with pytest.raises(ValueError, match="without small_lesions"):
        PhantomSource(9, small_lesions=True, lesion_sides=(0.1, 0.2))


def test_median_box_floor(phantoms: list[Phantom]) -> None:
    boxes = [lesion.box_px for phantom in phantoms for lesion in phantom.lesions]
    guess = np.median(np.array(boxes), axis=0)
    overlaps = []
    for box in boxes:
        width = max(0.0, min(box.x1, guess[2]) - max(box.x0, guess[0]))
        height = max(0.0, min(box.y1, guess[3]) - max(box.y0, guess[1]))
        whole = box.area + (guess[2] - guess[0]) * (guess[3] - guess[1])
        overlaps.append(width * height / (whole - width * height))
    assert np.mean(overlaps) < 0.12


def test_lesion_is_visible(phantoms: list[Phantom]) -> None:
    """Its pixels, or a cyst's rim and core, differ from the pixels around it by more than their noise."""
    for phantom in phantoms[:200]:
        for lesion in phantom.lesions:
            host = phantom.organs[lesion.organ_mask] & ~np.any([one.mask for one in phantom.lesions], axis=0)
            if host.sum() < 60:
                continue
            around = phantom.pixels[host].astype(float)
            strange = np.abs(phantom.pixels[lesion.mask] - around.mean()) > 1.5 * around.std()
            assert strange.mean() > 0.33, (phantom.look.title, lesion.lesion_class, strange.mean())


def image_x(image: SourceImage, organ: str) -> float:
    return float(np.nonzero(image.organs[organ])[1].mean())


def test_sides_follow_the_patient_directions(images: list[SourceImage]) -> None:
    """Liver and right organs lie on the patient's right, in plain and in mirrored pictures."""
    seen = Counter()
    for image in images:
        if image.modality == "US":
            assert image.patient_directions is None
            continue
        assert image.patient_directions is not None
        direction, down = image.patient_directions.split("\\")
        assert down == {"axial": "P", "frontal": "F", "coronal": "F"}[str(image.plane)]
        towards_left = 1 if direction == "L" else -1
        paired = [name.removesuffix(" right") for name in image.organs if name.endswith(" right")]
        assert paired
        for name in paired:
            assert towards_left * (image_x(image, f"{name} left") - image_x(image, f"{name} right")) > 0
        assert towards_left * (image_x(image, "stomach") - image_x(image, "liver")) > 0
        seen[direction] += 1
    assert seen["L"] > 50
    assert seen["R"] > 5


def test_marker_stands_on_the_side_that_it_names(phantoms: list[Phantom]) -> None:
    plain_radiographs = []
    for phantom in phantoms:
        assert phantom.marker or not phantom.mirrored
        if phantom.look.modality == "DX" and not phantom.mirrored:
            plain_radiographs.append(phantom.marker)
        corners = {"image left": phantom.pixels[4:16, 4:12], "image right": phantom.pixels[4:16, -12:-4]}
        written = {where for where, corner in corners.items() if (corner == 235).sum() >= 30}
        if phantom.marker is None:
            assert not written
            continue
        image_left_is = "L" if phantom.mirrored else "R"
        assert written == {"image left" if phantom.marker == image_left_is else "image right"}
        for lesion in phantom.lesions:
            assert lesion.box_px.y0 >= 16 or (lesion.box_px.x0 >= 12 and lesion.box_px.x1 <= 116)
    assert 0.3 < np.mean([marker is None for marker in plain_radiographs]) < 0.7


def test_mirroring_belongs_to_the_patient(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert phantom.mirrored == (phantom.patient.mirrored and phantom.look.modality != "US")
    by_patient: dict[int, set[tuple[str, int, bool]]] = {}
    for phantom in phantoms:
        traits = (phantom.patient.sex, phantom.patient.age_decade, phantom.patient.mirrored)
        by_patient.setdefault(phantom.patient.number, set()).add(traits)
    assert all(len(traits) == 1 for traits in by_patient.values())
    assert 0.05 < np.mean([next(iter(traits))[2] for traits in by_patient.values()]) < 0.28


def test_patients_have_one_to_three_consecutive_images() -> None:
    patients = [patient_of(seed=8, index=index) for index in range(300)]
    numbers = [patient.number for patient in patients]
    assert numbers == sorted(numbers)
    assert set(Counter(numbers).values()) == {1, 2, 3}
    assert set(numbers) == set(range(150))
    for number in range(150):
        mine = [patient.image for patient in patients if patient.number == number]
        assert mine == list(range(len(mine)))


def test_what_the_source_says(images: list[SourceImage]) -> None:
    assert len({image.key for image in images}) == len(images)
    assert len({image.study for image in images}) == len(images)
    for number, image in enumerate(images):
        assert image.index == f"images[{number}]"
        assert image.pixels.shape == (128, 128)
        assert image.pixels.dtype == np.uint8
        assert re.fullmatch(r"patient-\d{4}", str(image.patient))
        assert (image.licence, image.shareable, image.source) == ("CC0-1.0", True, "phantoms")
        assert image.attributes["sex"] in ("F", "M")
        assert image.attributes["age_decade"] in range(20, 90, 10)
        present = {one.lesion_class for one in image.annotations}
        assert image.label_scope == CLASSES
        nothing = {"no finding": "absent" if present else "present"}
        assert image.image_labels == {name: "present" if name in present else "absent" for name in CLASSES} | nothing
        assert all(mask.dtype == bool and mask.any() for mask in image.organs.values())
        for one in image.annotations:
            assert one.mask is not None
            assert one.box_px == tight_box(one.mask)


def test_physical_values(images: list[SourceImage]) -> None:
    for image in images:
        is_section = image.modality in ("CT", "MR")
        assert (image.intensity is not None) == is_section == (image.spacing_mm is not None)
        assert (image.window is not None) == (image.modality == "CT")
        assert (image.technique is not None) == (image.modality == "MR")
        if image.intensity is None:
            continue
        assert image.intensity.dtype == np.float32
        liver = image.organs["liver"] & ~np.any(
            [one.mask for one in image.annotations] or [np.zeros_like(image.organs["liver"])], axis=0
        )
        if image.window is not None:
            centre, width = image.window
            shown = np.clip((image.intensity - (centre - width / 2)) / width, 0, 1) * 255
            unmarked = image.pixels != 235
            assert np.abs(shown - image.pixels)[unmarked].max() <= 0.51
            assert 60 < image.intensity[liver].mean() < 100
            assert image.intensity[-4:, -4:].mean() < -900
        else:
            assert -4 < image.intensity.mean() < 0.2  # the body has mean 0, air lies below


FORBIDDEN = re.compile(
    r"\b(benign|malignan|cancer|metasta|tumou?r|suspicious|acute|chronic|mild|moderate|severe|new|old|stable|unchanged|chang|grow|"
    r"prior|previous|compar|history|recommend|follow|biops|normal|unremarkable|healthy|likely|probabl|due|caus|grade|device|tube)"
)


def test_reports_state_the_lesions_and_nothing_else() -> None:
    source = PhantomSource(180, seed=3)
    relations = Counter()
    for index in range(len(source)):
        report = source.read(index).report
        truth = source.truth(index)
        findings, impression = report["findings"].lower(), report["impression"].lower()
        assert not FORBIDDEN.search(f"{findings} {impression} {report['technique'].lower()}")
        positive = findings.split("no ")[0]
        absent = findings[len(positive) :]
        for name in CLASSES:
            is_present = name in {one.lesion_class for one in truth}
            plural = f"{name}es" if name == "mass" else f"{name}s"
            assert bool(re.search(rf"\b({name}|{plural})\b", positive)) == is_present
            assert (name in absent) == (not is_present)
        for (name, organ, side), count in Counter((one.lesion_class, one.organ, one.side) for one in truth).items():
            place = f"the {side} {organ}" if side else f"the {organ}"
            number = {1: "an?", 2: "two", 3: "three"}[count]
            pattern = rf"{number} {name}(s|es)? (projects?|over|in|projecting)[a-z ]* ?{place}"
            assert re.search(pattern, findings), (pattern, findings)
            assert place in impression
        assert ("left" in findings or "right" in findings) == any(one.side for one in truth)
        relations["projects" if "project" in findings else "in"] += 1
        assert ("project" in findings) == (bool(truth) and source.read(index).modality == "DX")
        assert report["language"] == "en"
    assert relations["projects"] > 20


def test_truth_matches_the_annotations() -> None:
    source = PhantomSource(40, seed=3)
    for index in range(len(source)):
        pairs = list(zip(source.truth(index), source.read(index).annotations, strict=True))
        assert all(true.lesion_class == one.lesion_class and true.box_px == one.box_px for true, one in pairs)


@pytest.mark.parametrize("side_px", [9.0, 16.0, 24.5, 40.0])
@pytest.mark.parametrize("lesion_class", CLASSES)
def test_drawn_shapes(lesion_class: str, side_px: float) -> None:
    for number in range(8):
        patch = draw_lesion(lesion_class, side_px, generator(number, "test"))
        box = tight_box(patch.mask)
        assert 0.7 * side_px - 1 <= max(box.width, box.height) <= side_px + 1.5
        assert patch.mask.shape[0] == patch.mask.shape[1] == 2 * patch.half + 1
        edge = np.concatenate([patch.core[0], patch.core[-1], patch.core[:, 0], patch.core[:, -1]])
        assert not edge.any()
        assert bool(patch.rim.any()) == (lesion_class == "cyst")


def test_unknown_class() -> None:
    with pytest.raises(ValueError, match="unknown lesion class 'wart'"):
        draw_lesion("wart", 20.0, generator(0, "test"))
