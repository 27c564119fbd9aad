"""Sentences of reports: what may identify somebody is withheld by name of the rule, what speaks of the picture stays."""

from __future__ import annotations

import json

import pytest

from medclm.corpus.report_privacy import screen_report, withheld_rejects
from medclm.corpus.sources.report_text import is_whole
from medclm.corpus.sources.reports import open_reports
from tests.source_files import real

SAYS = "The heart is not enlarged."


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Compared with 14 March 2018.", "report_date"),
        ("Compared with the film of 3/14.", "report_date"),
        ("Compared with 2018-03-14.", "report_date"),
        ("Compared with 14.3.18.", "report_date"),
        ("Seen at 10:35.", "report_date"),
        ("Operated in 2009.", "report_date"),
        ("Please ring 555-0142.", "report_contact"),
        ("Please ring +44 20 7946.", "report_contact"),
        ("Write to ward@clinic.example for more.", "report_contact"),
        ("Lives at 12 old mill lane.", "report_contact"),
        ("Record 48151623 was used.", "report_number"),
        ("Record KH-4815 was used.", "report_number"),
        ("The MRN is on the film.", "report_number"),
        ("A 93-year-old woman.", "report_age"),
        ("A woman aged 101.", "report_age"),
        ("Discussed with Dr. Who on the ward.", "report_person"),
        ("Discussed with dr who.", "report_person"),
        ("Electronically signed by the reader.", "report_person"),
        ("The daughter, Anna, was told.", "report_person"),
        ("Jane Doe was told.", "report_person"),
        ("Told to the wife of J. Müller by phone.", "report_person"),
        ("The film of O'Neill-Smith.", "report_person"),
        ("DOE^JANE was told.", "report_person"),
        ("Kowalska has a nodule.", "report_known"),
        ("The study cxr7 is repeated.", "report_known"),
        ("Patient p 47 11 is seen.", "report_known"),
    ],
)
def test_a_sentence_that_may_identify_somebody_leaves_a_mark(sentence: str, reason: str) -> None:
    found = screen_report(
        {"findings": f"{SAYS} {sentence} No effusion.", "language": "en"},
        ids=("CXR-7", "P4711", "chest.png"),
        names=("Kowalska^Zofia",),
    )
    assert found.sections == {"findings": f"{SAYS} XXXX No effusion.", "language": "en"}
    assert found.withheld == {reason: 1}
    assert not is_whole(found.sections["findings"])


@pytest.mark.parametrize(
    "sentence",
    [
        SAYS,
        "Chest PA and lateral.",
        "A 2.5 x 3.1 cm nodule at T9-T10 in the right lower lobe, series 4 image 112.",
        "Kerley B lines and a Swan-Ganz catheter.",
        "A 67-year-old man with COPD after CABG.",
        "Dr. XXXX was told by XXXX at XXXX.",
        "___F with cough.",
        "The chest is clear.",
        "1. No change. 2. Mild oedema.",
        "Pas d'épanchement à droite, état stable.",
        "Fractures of ribs 3/4, 5 mm; three of 12 are old.",
    ],
)
def test_a_sentence_about_the_picture_stays_as_it_is(sentence: str) -> None:
    found = screen_report({"impression": sentence}, ids=("chest.png", "P4711"), names=("Kowalska^Zofia",))
    assert (found.sections, found.withheld) == ({"impression": sentence}, {})


def test_a_text_in_capitals_hides_names_and_is_withheld_whole() -> None:
    found = screen_report({"findings": "ANNA KOWALSKA HAS A NODULE. NO EFFUSION.", "impression": "COPD."})
    assert found.sections == {"findings": "XXXX", "impression": "COPD."}
    assert found.withheld == {"report_capitals": 2}


def test_neighbouring_sentences_leave_one_mark_and_both_count() -> None:
    found = screen_report({"findings": "Seen in 2009. Told to Dr. Who. No change."})
    assert (found.sections["findings"], found.withheld) == ("XXXX No change.", {"report_date": 1, "report_person": 1})
    date, person = withheld_rejects("images[3]", found.withheld)
    assert (date.index, date.reason, person.reason) == ("images[3].report", "report_date", "report_person")
    assert date.detail.startswith("1 sentence withheld")
    assert withheld_rejects("images[3]", {}) == ()


def test_reports_are_screened_with_the_names_they_go_by(tmp_path) -> None:
    one = {"uid": "CXR71", "images": ["p12-771.png"], "findings": "Film P12-771 of study CXR 71. Told to Mrs. Doe. No change."}
    (tmp_path / "r.jsonl").write_text(json.dumps(one))
    found = open_reports(tmp_path / "r.jsonl").screened_of("p12-771.png")
    assert found.sections["findings"] == "XXXX No change."
    assert found.withheld == {"report_known": 1, "report_person": 1}


def test_reports_whose_identifiers_were_removed_keep_nearly_every_sentence() -> None:
    texts = open_reports(real("openi_reports") / "reports.jsonl")
    touched = [texts.screened_of("", one.study).withheld for one in texts.reports if one.sections]
    assert len(touched) > 500
    assert sum(map(bool, touched)) < 0.04 * len(touched)
