"""Facts of a header: what may be said, and what must not be said of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag

from medclm.corpus.contract import Header
from medclm.corpus.dicom.header import read_facts
from medclm.corpus.dicom.reading import guarded
from medclm.corpus.dicom.technique import technique_of
from tests.dicom_files import AXIAL, dataset, item, view


def facts(kind: str = "DX", frame: int = 0, **elements: Any) -> Header:
    return read_facts(view(dataset(kind, **elements), frame))


@pytest.mark.parametrize(
    ("position", "letters", "expected"),
    [
        ("PA", ["L", "F"], ("PA", "frontal", "L\\F")),
        ("AP", None, ("AP", "frontal", None)),
        ("LL", ["P", "F"], ("LL", "lateral", "P\\F")),
        ("LL", ["L", "F"], ("LL", "lateral", None)),
        (None, ["L", "F"], (None, None, "L\\F")),
        ("LLD", ["L", "F"], ("LLD", None, "L\\F")),
        ("LAO", ["L", "F"], ("LAO", "oblique", None)),
        ("DR SMITH", ["L", "F"], (None, None, "L\\F")),
        ("LAT", ["A", "F"], ("LATERAL", "lateral", "A\\F")),
    ],
)
def test_a_film_has_the_plane_of_its_view_and_directions_that_do_not_contradict_it(
    position: str | None, letters: list[str] | None, expected: tuple[Any, ...]
) -> None:
    found = facts(ViewPosition=position, PatientOrientation=letters)
    assert (found.view, found.plane, found.patient_directions) == expected


def test_a_view_may_stand_in_its_code_sequence() -> None:
    assert facts(ViewCodeSequence=[item(CodeMeaning="postero-anterior")]).view == "PA"
    assert facts(ViewCodeSequence=[item(CodeMeaning="as told by Dr Smith")]).view is None


def test_animals_and_breasts_have_no_plane_of_the_body() -> None:
    dog = facts(ViewPosition="AP", PatientOrientation=["L", "F"], AnatomicalOrientationType="QUADRUPED")
    assert dog.patient_directions is None
    breast = facts("MG", ViewPosition="CC", PatientOrientation=["P", "L"], ImageLaterality="R")
    assert (breast.view, breast.plane, breast.patient_directions, breast.laterality) == ("CC", None, None, "right")


def test_a_scout_of_ct_is_a_projection() -> None:
    scout = facts("CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    assert (scout.plane, scout.patient_directions) == ("frontal", "L\\F")


@pytest.mark.parametrize(
    ("elements", "side"),
    [
        ({"ImageLaterality": "L", "BodyPartExamined": "HAND"}, "left"),
        ({"Laterality": "R", "BodyPartExamined": "KNEE"}, "right"),
        ({"ImageLaterality": "L", "BodyPartExamined": "CHEST"}, None),
        ({"ImageLaterality": "L", "BodyPartExamined": "THORAX"}, None),
        ({"ImageLaterality": "L"}, None),
        ({"ImageLaterality": "L", "Laterality": "R", "BodyPartExamined": "HAND"}, None),
        ({"ImageLaterality": "B", "BodyPartExamined": "HAND"}, None),
        ({"ImageLaterality": "U", "BodyPartExamined": "HAND"}, None),
    ],
)
def test_a_side_counts_for_paired_parts_only(elements: dict[str, Any], side: str | None) -> None:
    assert facts(**elements).laterality == side


@pytest.mark.parametrize(
    ("kind", "elements", "spacing"),
    [
        ("CT", {"PixelSpacing": [0.5, 0.7]}, (0.5, 0.7)),
        ("DX", {"PixelSpacing": [0.5, 0.5]}, None),
        ("DX", {"PixelSpacing": [0.5, 0.5], "ImagerPixelSpacing": [0.5, 0.5]}, None),
        ("DX", {"PixelSpacing": [0.4, 0.4], "ImagerPixelSpacing": [0.5, 0.5]}, (0.4, 0.4)),
        ("DX", {"PixelSpacing": [0.5, 0.5], "PixelSpacingCalibrationType": "FIDUCIAL"}, (0.5, 0.5)),
        ("DX", {"ImagerPixelSpacing": [0.5, 0.5]}, None),
        ("MG", {"ImagerPixelSpacing": [0.5, 0.5], "EstimatedRadiographicMagnificationFactor": 1.25}, (0.4, 0.4)),
        ("CT", {"PixelSpacing": [0, 0.7]}, None),
        ("CT", {}, None),
    ],
)
def test_millimetres_need_a_calibration(kind: str, elements: dict[str, Any], spacing: tuple[float, float] | None) -> None:
    assert facts(kind, **elements).spacing_mm == spacing


def test_persons_are_described_by_the_allow_list_alone() -> None:
    found = facts(
        PatientName="Doe^Jane",
        PatientID="P7",
        PatientBirthDate="19300101",
        PatientSex="F",
        PatientAge="064Y",
        Manufacturer="SIEMENS Healthineers of Dr Doe",
        InstitutionName="Doe Hospital",
        SeriesDescription="Doe Jane",
        StudyDate="20200101",
        InstanceNumber=12,
    )
    assert found.attributes == {"sex": "F", "age_decade": 60, "manufacturer": "Siemens"}
    assert (found.patient, found.order_in_patient, found.technique) == ("P7", 12, None)
    assert "Doe" not in repr(found)


@pytest.mark.parametrize(
    ("age", "decade"), [("089Y", 80), ("090Y", None), ("107Y", None), ("011M", 0), ("000Y", None), ("old", None), (None, None)]
)
def test_no_age_above_89_is_kept(age: str | None, decade: int | None) -> None:
    with guarded():
        found = facts(PatientAge=age)
    assert found.attributes.get("age_decade") == decade


def test_a_maker_that_could_be_a_person_is_not_kept() -> None:
    assert "manufacturer" not in facts(Manufacturer="Jane Doe Imaging").attributes
    assert facts(Manufacturer="GE MEDICAL SYSTEMS").attributes["manufacturer"] == "GE"


@pytest.mark.parametrize(
    ("texts", "agent", "technique"),
    [
        (["t2_tse_tra"], False, "t2"),
        (["AX T2 FLAIR"], False, "flair"),
        (["sag t1 flair"], False, "t1"),
        (["ax t1 post gad"], False, "t1c"),
        (["T1 +C"], False, "t1c"),
        (["T1CE"], False, "t1c"),
        (["t1_mprage"], True, "t1c"),
        (["t1 pre contrast"], True, None),
        (["t1 pre contrast"], False, "t1"),
        (["t1_vibe_dyn"], True, None),
        (["ep2d_diff_ADC"], False, "adc"),
        (["DWI b1000"], False, "dwi"),
        (["T2*"], False, None),
        (["T2 mapping"], False, None),
        (["T1 and T2"], False, None),
        (["Doe Jane"], False, None),
        (["brain", "t2w"], False, "t2"),
        ([], False, None),
    ],
)
def test_techniques_are_words_of_a_fixed_vocabulary(texts: list[str], agent: bool, technique: str | None) -> None:
    assert technique_of(None, ["ORIGINAL", "PRIMARY"], texts, agent) == technique


def test_coded_techniques_go_first_and_contradictions_give_none() -> None:
    assert technique_of("DIFFUSION", [], [], False) == "dwi"
    assert technique_of("T2", [], ["t1"], False) is None
    assert technique_of("T1", [], ["t1 post"], False) == "t1c"
    assert technique_of(None, ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], ["dwi"], False) == "adc"


def test_each_frame_of_an_enhanced_object_has_its_own_facts() -> None:
    def frame(z: float, side: str) -> Any:
        return item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            FrameAnatomySequence=[item(FrameLaterality=side)],
            FrameVOILUTSequence=[item(WindowCenter=z, WindowWidth=100)],
        )

    made = dataset(
        "ENHANCED_CT",
        NumberOfFrames=2,
        BodyPartExamined="KNEE",
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=AXIAL)],
                PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.6])],
            )
        ],
        PerFrameFunctionalGroupsSequence=[frame(3, "L"), frame(7, "R")],
    )
    found = [read_facts(view(made, number)) for number in range(2)]
    assert [one.window for one in found] == [(3, 100), (7, 100)]
    assert [one.laterality for one in found] == ["left", "right"]
    assert [one.order_in_patient for one in found] == [1, 2]
    assert {(one.plane, one.patient_directions, one.spacing_mm) for one in found} == {("axial", "L\\P", (0.5, 0.6))}


def test_malformed_values_are_not_said() -> None:
    made = dataset("CT", PatientID="P")
    for tag, vr, value in (
        (0x00200037, "DS", b"a\\b\\c\\d\\e\\f"),
        (0x00280030, "DS", b"x\\1"),
        (0x00200013, "IS", b"many"),
        (0x00101010, "AS", b"\xff\xff"),
        (0x00281050, "DS", b"nan"),
    ):
        made[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)
    with guarded():
        found = read_facts(view(made))
    assert (found.plane, found.spacing_mm, found.order_in_patient, found.window, found.attributes) == (
        None,
        None,
        None,
        None,
        {},
    )
