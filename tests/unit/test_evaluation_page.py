"""The page of an evaluated suite: what it says, that texts stay texts, that nothing is fetched, and how large it is."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.example import Prediction
from eval.pages.case_pictures import save_pictures
from eval.pages.cases import DRAWN, choose, read_cases
from eval.pages.page import LOOK
from eval.pages.report import write_report
from eval.pages.report_words import words
from eval.runner import SUITES
from eval.suites.vqa import VqaSuite
from medclm.draws import generator
from medclm.metrics.profiles import PROFILES
from medclm.types import Box
from tests.evaluations import case, evaluated, phantom_pool

EVIL = "</script><script>alert(1)</script><!-- \u2028 \"onfocus='alert(2)' autofocus"
"""Text that would end a script, open a comment, or leave an attribute."""


class Page(HTMLParser):
    """Tags with attributes, and the texts between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = "\n".join(self.texts)

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        """Attributes of every such tag; `class_` holds one of its classes."""
        kind = attributes.pop("class_", None)
        found = [given for name, given in self.tags if name == tag and attributes.items() <= given.items()]
        return [given for given in found if kind is None or kind in (given.get("class") or "").split()]


def results_of(cases, **changes):
    score = {"value": 0.5, "ci95": [0.4, 0.6], "floor": 0.2, "n": len(cases)}
    stated = {
        "suite": "vqa",
        "n": len(cases),
        "headline": ["right"],
        "scores": {"right": score},
        "breakdown": {},
        "left_out": {},
    }
    return {**stated, "versions": {}} | changes


def written(folder: Path, cases, *, settings=None, **changes) -> Page:
    folder.mkdir(exist_ok=True)
    path = folder / "report.html"
    write_report(path, results=results_of(cases, **changes), settings=settings or {}, cases=choose(cases, seed=0))
    return Page(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three suites of one model, grounding on grey pictures too, and one suite of a better model."""
    place = tmp_path_factory.mktemp("evaluation")
    pool = phantom_pool(place / "corpus", count=120, size=64)
    evaluated(pool, place / "first", suites=["grounding"], skill=0.5, blank=True)
    return evaluated(pool, place / "first", suites=["grounding", "vqa", "behaviour"], skill=0.5)


# What it says.


def test_every_score_stands_with_interval_floors_and_number(folder):
    page = Page(folder / "grounding-test" / "report.html")
    results, blank = (json.loads((folder / f"grounding-test{of}" / "results.json").read_text()) for of in ("", "-blank"))
    assert "Research use only, not a medical device" in page.text
    table = page.text[page.text.index(" scores\n") :]
    for name, score in results["scores"].items():
        if score["n"]:
            row = table[table.index(f"\n{name}") :].split("\n")[:16]
            expected = [f"{score['value']:.3f}", "–" if score["floor"] is None else f"{score['floor']:.3f}", str(score["n"])]
            assert set(expected) | {f"{blank['scores'][name]['value']:.3f}"} <= {cell.strip() for cell in row}, name
    for name in results["headline"]:
        assert words(name).sentence in page.text
    assert "on grey pictures" in page.text
    assert "saw a plain grey picture" not in page.text
    assert "saw a plain grey picture" in Page(folder / "grounding-test-blank" / "report.html").text


def test_a_grey_run_that_was_asked_otherwise_is_no_floor(tmp_path):
    beside = tmp_path / "vqa-test-blank"
    beside.mkdir()
    grey = {"scores": {"right": {"value": 0.321, "ci95": None, "floor": None, "n": 1}}}
    (beside / "results.json").write_text(json.dumps(grey))
    asked = {"limit": None, "prompt": "a", "blank_image": False}
    for other, shown in (({"blank_image": True}, True), ({"blank_image": True, "limit": 20}, False), ({}, False)):
        (beside / "settings.json").write_text(json.dumps(asked | other))
        page = written(tmp_path / "vqa-test", [case()], settings=asked)
        assert ("0.321" in page.text) == shown
        assert ("was asked otherwise" in page.text) == (not shown)
        assert ("(limit)" in page.text) == ("limit" in other)


def test_subgroups_have_value_interval_and_number_and_small_ones_none(folder):
    page = Page(folder / "grounding-test" / "report.html")
    results = json.loads((folder / "grounding-test" / "results.json").read_text())
    assert {"domain", "plane", "sex"} <= set(results["breakdown"])
    for dimension, groups in results["breakdown"].items():
        section = page.text[page.text.index(f"\n{dimension.replace('_', ' ')}\ngroup") :]
        for group, scores in groups.items():
            row = section[section.index(f"\n{group}\n") :].split("\n")[1:12]
            for score in scores.values():
                assert str(score["n"]) in row
                assert (f"{score['value']:.3f}" if score["value"] is not None else "too few" if score["n"] else "–") in row
    assert "lesion size" in page.text
    assert "patches" in page.text


def test_what_was_left_out_or_not_run_is_told(tmp_path):
    page = written(tmp_path, [case()], left_out={"no answer": 1234}, not_run={"RadGraph F1": "needs the package"})
    assert {"no answer", "1,234", "RadGraph F1", "needs the package"} <= set(page.texts)
    assert "Nothing: every question" in written(tmp_path, [case()]).text


def test_the_top_tells_who_answered_and_about_how_many_patients(tmp_path):
    page = written(tmp_path / "one", [case()], predictions="theirs.jsonl")
    assert "1 questions about 1 patient, answered by theirs.jsonl." in " ".join(page.text.split()).replace(" .", ".")


def test_a_case_shows_truth_reply_reasoning_and_values(tmp_path):
    said = Prediction(text="t", answer="a mass", rationale="it is dense", boxes_unit=(Box(0, 0, 1, 1),), box_scores=(-0.5,))
    values = {"right": 0.0, "internal column": 3.0}
    page = written(tmp_path, [case(said=said, values=values, groups={"sex": "F"}), case(1)])
    for text in ("What is seen?", "nodule", "or: lung nodule", "a mass", "it is dense", "0.61"):
        assert any(text in one for one in page.texts), text
    assert "sex F" in page.text
    assert "internal column" not in page.text  # values that are no score serve the code
    assert [json.loads(one["data-scores"]) for one in page.all("article")] == [{"right": 0.0}, {"right": 1.0}]


def test_counts_are_of_all_cases_and_cards_of_the_chosen(tmp_path):
    cases = [case(number, values={"right": float(number % 4 == 0)}) for number in range(400)]
    page = written(tmp_path, cases)
    assert {" 100 ", " 300 ", "25%", "75%"} <= set(page.texts)
    assert len(page.all("article")) == sum(bool(one.chosen) for one in choose(cases, seed=0)) < 60


def test_boxes_lie_where_they_are(tmp_path):
    boxes = {
        "truth": (Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.5, 0.6, 0.7)),
        "said": (Box(0.9, 0.8, 0.7, 0.6), Box(-0.5, 0.5, 0.5, 2.0)),
    }
    one = case(boxes_unit=boxes["truth"], said=Prediction(text="t", answer="a", boxes_unit=boxes["said"]))
    cases = save_pictures(choose([one], seed=0), tmp_path, lambda _: Image.new("L", (200, 100)))
    write_report(tmp_path / "report.html", results=results_of(cases), settings={}, cases=cases)
    page = Page(tmp_path / "report.html")
    found, kind = {"truth": [], "said": []}, ""
    for tag, given in page.tags:
        kind = given["class"] if tag == "g" else kind
        if tag == "rect" and given.get("class") == "line":
            found[kind].append([float(given[name]) for name in ("x", "y", "width", "height")])
    assert found == {"truth": [[20, 20, 40, 20], [100, 50, 20, 20]], "said": [[140, 60, 40, 20], [0, 50, 100, 50]]}
    assert page.all("svg", class_="picture")[0]["viewbox"] == "0 0 200 100"


def test_a_picture_of_many_cases_stands_in_the_page_once(tmp_path):
    cases = save_pictures(
        choose([case(number) for number in range(5)], seed=0), tmp_path, lambda _: Image.new("L", (20, 10), 90)
    )
    write_report(tmp_path / "report.html", results=results_of(cases), settings={}, cases=cases)
    page = Page(tmp_path / "report.html")
    [image] = page.all("image")
    assert [one["href"] for one in page.all("use")] == [f"#{image['id']}"] * 5
    kept = Image.open(io.BytesIO(base64.b64decode(image["href"].removeprefix("data:image/jpeg;base64,"))))
    assert kept.size == (20, 10)


def test_a_missing_picture_is_named(tmp_path):
    cases = [replace(case(), chosen=(DRAWN,), picture="gone.jpg")]
    with pytest.raises(ValueError, match=r"pictures/gone\.jpg: missing"):
        write_report(tmp_path / "report.html", results=results_of(cases), settings={}, cases=cases)


@pytest.mark.parametrize("cases", [[], [case(values={"anything": 0.2}, boxes_unit=(), said=Prediction())]])
def test_suites_without_boxes_pictures_or_outcomes_have_a_page(tmp_path, cases):
    page = written(tmp_path, cases)
    assert not page.all("svg", class_="picture")
    assert len(page.all("article")) == len(cases)


def test_likeliest_options_are_told_where_nothing_was_written(tmp_path):
    one = replace(
        case(said=Prediction(), answers=(), labels={"Nodule": 1.0, "Mass": -1.0}),
        measured={"label: Nodule": {"Yes": -1.0, "No": -3.0}},
    )
    page = written(tmp_path, [one])
    assert "Nodule: present\nMass: uncertain" in page.texts
    assert "Nodule: Yes, 88%" in page.texts


def test_equal_evaluations_give_equal_bytes(folder, tmp_path):
    place = folder / "grounding-test"
    results, settings = (json.loads((place / f"{name}.json").read_text()) for name in ("results", "settings"))
    before = (place / "report.html").read_bytes()
    write_report(place / "report.html", results=results, settings=settings, cases=read_cases(place))
    assert (place / "report.html").read_bytes() == before


HEADLINES = [suite.headline for suite in SUITES.values() if isinstance(suite, type)]
HEADLINES += [VqaSuite.headline, *(profile.headline for profile in PROFILES.values())]


@pytest.mark.parametrize("names", HEADLINES)
def test_headlines_are_told_in_words(names):
    assert [name for name in names if not words(name).sentence] == []


# Texts stay texts.


def evil_case(number: int):
    said = Prediction(text=EVIL, answer=EVIL, rationale=EVIL, boxes_unit=(Box(0, 0, 1, 1),))
    one = case(
        number,
        id=f"{EVIL}{number}",
        patient=EVIL,
        question=EVIL,
        question_kind=EVIL,
        domain=f"{EVIL}{number}",
        answers=(EVIL, EVIL),
        labels={EVIL: 1.0},
        groups={EVIL: EVIL},
        said=said,
        values={"right": float(number), EVIL: 1.0},
    )
    return replace(one, measured={EVIL: {EVIL: -1.0}}, others={EVIL: EVIL})


def test_texts_can_neither_run_nor_leave_their_place(tmp_path):
    score = {"value": 0.5, "ci95": None, "floor": None, "n": 2}
    page = written(
        tmp_path,
        [evil_case(0), evil_case(1)],
        settings={EVIL: EVIL, "split": EVIL},
        suite=EVIL,
        benchmark=EVIL,
        checkpoint=EVIL,
        headline=[EVIL],
        scores={EVIL: score, "right": score, f"{EVIL} empty": score | {"n": 0}},
        breakdown={EVIL: {EVIL: {EVIL: score}}},
        left_out={EVIL: 1},
        not_run={EVIL: EVIL},
        versions={EVIL: EVIL},
        note=EVIL,
    )
    assert len(page.all("script")) == len(page.all("style")) == 1
    allowed = {
        "class",
        "id",
        "type",
        "value",
        "checked",
        "hidden",
        "title",
        "tabindex",
        "role",
        "scope",
        "href",
        "lang",
        "open",
    }
    for tag, given in page.tags:
        strange = {name for name in given if name not in allowed and not name.startswith(("data-", "aria-"))}
        assert not strange & {"onfocus", "autofocus", "style", "src"}, (tag, strange)
        assert not any(name.startswith("on") for name in given)
    assert sum(EVIL in one for one in page.texts) > 25  # all of it is there to read
    scores = [json.loads(one["data-scores"]) for one in page.all("article")]
    assert scores == [{EVIL: 1.0, "right": float(number)} for number in (0, 1)]
    assert {one["data-domain"] for one in page.all("article")} == {f"{EVIL}0", f"{EVIL}1"}
    body = page.source[page.source.index("</style>") : page.source.rindex("<script>")]
    assert "<!--" not in body
    assert "<script" not in body


def test_the_policy_lets_only_the_pages_own_style_and_script_through(folder):
    page = Page(folder / "vqa-test" / "report.html")
    [policy] = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    parts = dict(part.split(maxsplit=1) for part in policy.split("; "))
    assert set(parts) == {"default-src", "img-src", "style-src", "script-src", "base-uri", "form-action"}
    assert [parts[name] for name in ("default-src", "img-src", "base-uri", "form-action")] == [
        "'none'",
        "data:",
        "'none'",
        "'none'",
    ]
    for tag in ("style", "script"):
        content = page.source.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert parts[f"{tag}-src"] == f"'sha256-{digest}'"


@pytest.mark.parametrize("suite", ["vqa", "grounding", "behaviour"])
def test_no_address_stands_in_the_page(folder, suite):
    page = Page(folder / f"{suite}-test" / "report.html")
    assert not re.search(
        r"https?:|//\w+\.\w|url\(|@import|javascript:", re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", page.source)
    )
    links = [given[name] for _, given in page.tags for name in ("href", "src", "action", "srcset") if given.get(name)]
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "form", "base", "img"}


# Size and colours.


def test_sixty_of_the_noisiest_pictures_are_under_six_megabytes(tmp_path):
    cases = [replace(case(number, said=Prediction(text="word " * 200, answer="word")), chosen=(DRAWN,)) for number in range(60)]

    def noise(case_id):
        return Image.fromarray(generator(0, case_id).integers(0, 256, size=(700, 600, 3), dtype=np.uint8))

    cases = save_pictures(cases, tmp_path, noise)
    write_report(tmp_path / "report.html", results=results_of(cases), settings={}, cases=cases)
    assert 1e6 < (tmp_path / "report.html").stat().st_size < 6e6


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_in_light_and_dark(dark):
    """At least 4.5 : 1, as WCAG 2.1 AA asks of small text."""
    light, night = LOOK.split("@media screen and (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--(\w+): (#\w+)", night if dark else light))
    for ground in ("ground", "raised"):
        for ink in ("ink", "soft", "alert", "link", "good", "doubt"):
            bright, dim = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, ground)
