"""Reports: every layout on files made here, their join with pictures, and the real Open-i reports."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from medclm.corpus.contract import RejectedImage
from medclm.corpus.sources.report_source import ReportSource
from medclm.corpus.sources.report_text import is_whole, split_sections, tidy
from medclm.corpus.sources.reports import open_reports
from tests.source_files import options, picture, real, refusal

OPEN_I = """<eCitation><uId id="CXR7"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">Cough   for XXXX</AbstractText>
<AbstractText Label="FINDINGS">Heart size is
 normal.</AbstractText><AbstractText Label="IMPRESSION">No acute disease.</AbstractText>
<AbstractText Label="SIGNED">Dr. Who</AbstractText></Abstract></Article></MedlineCitation>
<parentImage id="CXR7_IM-2263-1001"><caption>PA</caption></parentImage><parentImage id="CXR7_IM-2263-2001"/></eCitation>"""

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough.  // pneumonia?

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  None.

 FINDINGS:

 There is no effusion: none at all.
 The heart is large.

 IMPRESSION:

 Cardiomegaly.

 NOTIFICATION:  Dr. ___ was told by phone.
"""
KEPT = {
    "indication": "___F with cough. // pneumonia?",
    "technique": "Chest PA and lateral",
    "comparison": "None.",
    "findings": "There is no effusion: none at all. The heart is large.",
    "impression": "Cardiomegaly.",
    "language": "en",
}
SPLIT = "dicom_id,study_id,subject_id,split\nd1,50414267,10000032,train\nd2,50414267,10000032,train\nd3,53189527,10000099,validate\n"
META = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows\n"
    "d1,10000032,50414267,CHEST,PA,1\nd2,10000032,50414267,CHEST,LATERAL,1\nd3,10000099,53189527,CHEST,AP,1\n"
)


def open_i(root: Path, text: str = OPEN_I) -> Path:
    (root / "xml").mkdir(exist_ok=True)
    (root / "xml" / "7.xml").write_text(text)
    return root / "xml"


def mimic(root: Path) -> Path:
    for patient, study, text in (("p10000032", "s50414267", MIMIC), ("p10000099", "s53189527", "WET READ: nothing yet")):
        folder = root / "files" / "p10" / patient
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{study}.txt").write_text(text)
    for name in ("d1", "d2", "d3"):
        picture(root / "images" / "p10" / f"{name}.jpg")
    (root / "split.csv").write_text(SPLIT)
    (root / "meta.csv").write_text(META)
    return root / "files"


# sections


def test_sections_of_a_free_text() -> None:
    assert tidy(split_sections(MIMIC), "en") == KEPT
    assert split_sections("no heading") == {}
    assert split_sections("FINDINGS: a\nFINDINGS: b")["findings"].split() == ["a", "b"]
    assert "Who" not in str(split_sections("IMPRESSION: x\nSIGNED BY: Dr. Who"))
    assert tidy({"indication": "cough", "findings": " ", "impression": None}) == {}


def test_a_text_with_something_taken_out_is_no_answer() -> None:
    texts = ("The heart is normal.", "No XXXX seen.", "Seen by ___.", "On [**2101-1-1**].", "x_1 and y__2")
    assert [is_whole(text) for text in texts] == [True, False, False, False, True]


# layouts and joins


def test_open_i_is_found_by_picture_and_study(tmp_path: Path) -> None:
    reports = open_reports(open_i(tmp_path))
    expected = {
        "indication": "Cough for XXXX",
        "findings": "Heart size is normal.",
        "impression": "No acute disease.",
        "language": "en",
    }
    for key in ("CXR7_IM-2263-1001.png", "images/cxr7_im-2263-2001", "CXR7"):
        assert reports.report_of(key) == expected
    assert reports.report_of("unknown.png", "CXR7") == expected
    assert reports.report_of("unknown.png") == {}
    assert reports.study_of("CXR7_IM-2263-1001.png") == "CXR7"
    assert reports.study_of("unknown.png") is None


def test_an_unreadable_report_among_others_is_counted(tmp_path: Path) -> None:
    folder = open_i(tmp_path)
    (folder / "8.xml").write_text("<eCitation>")
    (folder / "9.xml").write_text('<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]><eCitation/>')
    reports = open_reports(folder)
    assert [(reject.index, reject.reason) for reject in reports.rejects] == [
        ("reports[1]", "report_unreadable"),
        ("reports[2]", "report_unreadable"),
    ]
    assert str(tmp_path) not in str(reports.rejects)


def test_mimic_texts_are_read_when_asked_for(tmp_path: Path) -> None:
    folder = mimic(tmp_path)
    reports = open_reports(folder)
    assert reports.report_of("d1.jpg", "50414267") == KEPT
    assert reports.report_of("d1.jpg", "s50414267") == KEPT
    assert reports.report_of("d1.jpg") == {}
    (folder / "p10" / "p10000032" / "s50414267.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RejectedImage, match="report_unreadable"):
        reports.report_of("d1.jpg", "50414267")


def test_lines_and_tables(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"uid": "U1", "images": ["a"], "findings": "Clear lungs.", "impression": ""}\n\n')
    assert open_reports(tmp_path / "r.jsonl").report_of("a.png") == {"findings": "Clear lungs.", "language": "en"}
    (tmp_path / "r.csv").write_text('image,findings,language\na.png,"Clear,\nboth lungs.",de\nb.png,,de\n')
    table = open_reports(tmp_path / "r.csv")
    assert table.report_of("A.PNG") == {"findings": "Clear, both lungs.", "language": "de"}
    assert table.report_of("b.png") == {}
    (tmp_path / "s.csv").write_text("study_id,impression\n50414267,Normal.\n")
    assert open_reports(tmp_path / "s.csv").report_of("x.png", "s50414267") == {"impression": "Normal."}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.jsonl", "", r"r\.jsonl: empty"),
        ("r.jsonl", '{"uid": "a"}\n{', r"r\.jsonl:2: not JSON"),
        ("r.jsonl", "[1]\n", r"r\.jsonl:1: expected an object with uid"),
        ("r.jsonl", '{"uid": 1, "images": []}\n', r"r\.jsonl:1: expected"),
        ("r.jsonl", '{"uid": "1", "images": [2]}\n', r"r\.jsonl:1: expected"),
        ("r.jsonl", "[" * 100_000, r"r\.jsonl:1: not JSON"),
        ("r.csv", "findings\nx\n", r"r\.csv:1: needs one of the columns image"),
        ("r.csv", "image,indication\na,b\n", r"r\.csv:1: needs one of"),
        ("r.csv", "image,findings\na,b\na,c\n", r"r\.csv:3: line 2 says something else"),
        ("r.txt", "x", "give a folder of"),
    ],
)
def test_faults_of_a_file_of_reports(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        open_reports(tmp_path / name)
    (tmp_path / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="no report among 0"):
        open_reports(tmp_path / "empty")


# the source


def test_pictures_of_open_i(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "CXR7_IM-2263-1001.png")
    source = ReportSource(open_i(tmp_path), tmp_path / "images", options())
    image = source.read(0)
    assert len(source) == 2
    assert image.report["impression"] == "No acute disease."
    assert (image.annotations, image.label_scope, image.study, image.patient) == ((), (), "CXR7", "CXR7")
    assert (image.modality, image.view, image.official_split) == (None, None, None)
    assert refusal(source, 1).reason == "image_missing"
    assert pickle.loads(pickle.dumps(source)).read(0).report == image.report


def test_pictures_of_mimic_with_its_tables(tmp_path: Path) -> None:
    folder = mimic(tmp_path)
    declared: dict[str, Any] = {"image_labels": tmp_path / "meta.csv", "split_list": tmp_path / "split.csv"}
    source = ReportSource(folder, tmp_path / "images", options(**declared))
    images = [source.read(place) for place in (0, 1)]
    assert [(one.view, one.patient, one.study, one.official_split) for one in images] == [
        ("PA", "10000032", "50414267", "train"),
        ("LATERAL", "10000032", "50414267", "train"),
    ]
    assert images[0].report == KEPT
    assert refusal(source, 2).reason == "report_missing"
    split_only = ReportSource(folder, tmp_path / "images", options(split_list=tmp_path / "split.csv"))
    assert [(one.view, one.official_split) for one in (split_only.read(0),)] == [(None, "train")]
    (tmp_path / "split.csv").write_text(SPLIT.replace("d2,", "d9,"))
    partial = ReportSource(folder, tmp_path / "images", options(**declared))
    assert len(partial) == 2
    assert [(reject.index, reject.reason) for reject in partial.rejects] == [("rows[1]", "split_unknown")]


def test_tables_and_reports_that_do_not_fit(tmp_path: Path) -> None:
    folder = mimic(tmp_path)
    with pytest.raises(ValueError, match="give MIMIC's metadata table with --image-labels"):
        ReportSource(folder, tmp_path / "images", options())
    (tmp_path / "split.csv").write_text(SPLIT.replace("validate", "fold3"))
    with pytest.raises(ValueError, match=r"split\.csv:4: split 'fold3'"):
        ReportSource(folder, tmp_path / "images", options(split_list=tmp_path / "split.csv"))
    (tmp_path / "split.csv").write_text(SPLIT.replace("10000099", ""))
    with pytest.raises(ValueError, match=r"split\.csv:4: study_id or subject_id is empty"):
        ReportSource(folder, tmp_path / "images", options(split_list=tmp_path / "split.csv"))
    with pytest.raises(ValueError, match="--exhaustive nodule is no class"):
        ReportSource(folder, tmp_path / "images", options(exhaustive=("nodule",)))


def test_the_real_reports(tmp_path: Path) -> None:
    path = real("openi_reports") / "reports.jsonl"
    reports = open_reports(path)
    assert len(reports.reports) == 600
    found = [report.sections for report in reports.reports if report.sections]
    assert sum("findings" in one for one in found) == 528
    assert sum("impression" in one for one in found) == 597
    source = ReportSource(path, tmp_path, options())
    assert len(source) == 1132
    assert {refusal(source, place).reason for place in range(len(source))} == {"image_missing", "report_missing"}
    first = json.loads(path.read_text().splitlines()[0])
    picture(tmp_path / "pictures" / f"{first['images'][0]}.png")
    image = ReportSource(path, tmp_path / "pictures", options()).read(0)
    assert image.report["findings"] == first["findings"]
    assert not is_whole(image.report["findings"])
