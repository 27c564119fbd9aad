"""Model cards: say what the facts say, in a form that no name from a corpus can change; their code does what MedCLM does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from medclm.config import BoxTextSection, DataSection, Recipe, Tiles
from medclm.corpus.audit_patterns import find_patterns, patterns
from medclm.corpus.build import BuildOptions, build
from medclm.corpus.ids import phantom_ids
from medclm.corpus.review.statistics import Judged, assess
from medclm.corpus.review.summary import write_review
from medclm.corpus.sources.phantoms import PhantomSource
from medclm.corpus.writers.template import TemplateWriter
from medclm.data.corpus_facts import corpus_facts
from medclm.data.frame import ImageFrame
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.exports import add_evaluations
from medclm.markdown import code, escape
from medclm.model_card import CARD, FACTS, evaluation, render_card, training_facts, with_evaluations
from medclm.models.asking import asking_code, asking_facts
from medclm.models.tiles import SCALES, views_of
from medclm.testing import tiny_processor, tiny_section
from medclm.types import Box

HOSTILE = "x](https://a.b)| <img src=x> `c` **b** # h\n\n## Notice\n---\n@you www.a.b \x1b[31m $x$"
PARSER = MarkdownIt("commonmark").enable("table")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "phantoms"
    options = BuildOptions(ids=phantom_ids(0), near_duplicates=False, progress=False)
    build(PhantomSource(count=40, seed=0, size=64), TemplateWriter(), out, options)
    return out


def facts(corpus: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The facts of some export; `changes` are sections of its recipe."""
    recipe = Recipe(**changes)
    return {
        "format": 1,
        "architecture": "VipLlavaForConditionalGeneration",
        "parameters": 1_234_567,
        "training": training_facts(recipe, step=500, world_size=2),
        "versions": {"medclm": "0.1.0"},
        "asking": asking_facts(tiny_processor(), recipe.data),
        "corpus": corpus,
        "evaluations": [],
    }


def stated(name: str = "cc0", **changes: Any) -> dict[str, Any]:
    """Facts of a corpus of one source."""
    source = {"name": "films", "images": 7, "shareable": True, "licences": [name], "label_scope": ["nodule"]}
    source |= {"images_without_scope": 0, "images_without_patient": 0}
    return {
        "hash": "0" * 32,
        "trained_split": "train",
        "records": {"train": 1_234_567, "val": 3, "test": 4},
        "images": 7,
        "domains": {"nodule / DX": 1_234_567},
        "modalities": {"DX": 7},
        "writers": {"template": 1_234_567},
        "languages": {"en": 1_234_567},
        "question_kinds": {"what": 1_234_567},
        "sources": [source],
        "licence": {"name": name, "strictness": 1},
        "review": None,
    } | changes


def result(**changes: Any) -> dict[str, Any]:
    """What a suite's results.json holds, as far as a card reads it."""
    scores = {
        "answer_accuracy": {"value": 0.75, "ci95": [0.6, 0.875], "floor": 0.25, "n": 40},
        "closed_accuracy": {"value": None, "ci95": None, "floor": None, "n": 0},
    }
    found = {"suite": "vqa", "benchmark": "VQA-RAD", "n": 40, "left_out": {"no picture": 2}, "scores": scores}
    return found | {"checkpoint": "somewhere/else"} | changes


ASKED = {"split": "test", "limit": None, "instruction": "reason", "profile": "medclm", "blank": False, "month": "2031-05"}


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def outline(card: str) -> list[tuple[str, str]]:
    """Every Markdown and HTML element of a card that is more than text, in order; of headings also their words."""
    body = card.split("---\n", 2)[2]
    found = []
    for token in PARSER.parse(body):
        for one in [token, *(token.children or ())]:
            if one.type not in ("text", "inline", "softbreak"):
                found.append((one.type, one.tag))
    return found


def words(card: str) -> str:
    """The text that a reader of the rendered card sees."""
    inline = (token for token in PARSER.parse(card.split("---\n", 2)[2]) if token.type == "inline")
    return "\n".join("".join(one.content for one in token.children or ()) for token in inline)


# --- what it says of a corpus ---------------------------------------------------------------------------------------------


def test_facts_of_a_corpus_are_those_that_a_recount_of_its_files_gives(phantoms: Path) -> None:
    found = corpus_facts(Corpus(phantoms), "train")
    records = [row for path in sorted(phantoms.glob("records-*.arrow")) for row in rows(path)]
    images = [row for path in sorted(phantoms.glob("images-*.arrow")) for row in rows(path)]
    trained = [row for row in records if row["split"] == "train"]
    for key, column in (
        ("writers", "writer"),
        ("languages", "language"),
        ("question_kinds", "question_kind"),
        ("domains", "domain"),
    ):
        assert found[key] == {name: sum(row[column] == name for row in trained) for name in {row[column] for row in trained}}
    assert list(found["domains"].values()) == sorted(found["domains"].values(), reverse=True)
    assert found["modalities"] == {
        name: sum(row["modality"] == name for row in images) for name in {row["modality"] for row in images}
    }
    assert found["records"] == {split: sum(row["split"] == split for row in records) for split in ("train", "val", "test")}
    assert found["images"] == len(images)
    assert found["licence"] == {"name": "CC0-1.0", "strictness": 1}
    assert found["sources"][0]["label_scope"] == ["calcification", "contusion", "cyst", "mass", "nodule"]


def rows(path: Path) -> list[dict[str, Any]]:
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
        return stream.read_all().to_pylist()


def test_no_id_of_a_corpus_and_no_path_of_a_recipe_is_in_a_card(phantoms: Path) -> None:
    made = facts(
        corpus_facts(Corpus(phantoms), "train"),
        data={"corpus": phantoms, "image_root": "/secret/images"},
        run={"output_dir": "/secret/runs"},
        model={"path": "/secret/weights/llava-7b/"},
        tracking={"uri": "http://secret.host"},
    )
    told = json.dumps(made) + render_card(made)
    for path in phantoms.glob("*.arrow"):
        for row in rows(path):
            ids = (row.get(key) for key in ("image_id", "patient", "study", "series", "origin", "record_id", "annotation_id"))
            assert not [one for one in ids if one and one in told]
    assert "secret" not in told
    assert str(phantoms.parent) not in told
    assert "a local folder named llava-7b" in told


def test_a_corpus_that_states_nothing_is_told_so(tmp_path: Path) -> None:
    found = corpus_facts(Corpus(write_small_corpus(tmp_path / "small")), "train")
    card = render_card(facts(found))
    assert found["writers"] == {"unknown": 18}
    assert "Sources are not stated in the corpus." in card
    assert "do not share these weights before they are" in card
    assert "The modality of 24 pictures is unknown." in card
    assert yaml.safe_load(card.split("---")[1])["license"] == "unknown"


def test_a_corpus_that_is_gone_is_told_so() -> None:
    card = render_card(facts(None))
    assert "the corpus was not at hand" in section(card, "Training data")
    assert "could not teach is not known" in section(card, "Limitations")


def test_the_strictest_licence_is_found_whether_or_not_pictures_may_be_shared(tmp_path: Path) -> None:
    folder = write_small_corpus(tmp_path / "small")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sources"] = {
        "a": {"licences": ["MIT"], "shareable": False},
        "b": {"licences": ["CC BY-NC 4.0", "CC0-1.0"], "shareable": True},
    }
    manifest["licence"] = "MIT"  # as the manifest ranks it, since a's pictures may not be shared
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = render_card(facts(corpus_facts(Corpus(folder), "train")))
    assert "**CC BY-NC 4.0**. It allows non-commercial use only." in card
    assert "Not declared shareable by whoever built the corpus: a." in card


@pytest.mark.parametrize(
    ("licence", "strictness", "license", "name"),
    [
        ("CC0-1.0", 1, "cc0-1.0", None),
        ("MIT", 2, "mit", None),
        ("Apache 2.0", 2, "apache-2.0", None),
        ("CC BY 4.0", 3, "cc-by-4.0", None),
        ("CC BY-NC-SA 3.0", 7, "cc-by-nc-sa-3.0", None),
        ("CC BY-NC 9.0", 6, "other", "cc-by-nc-9.0"),
        ("PhysioNet Credentialed 1.5.0", 9, "other", "physionet-credentialed-1.5.0"),
        ("unknown", 9, "unknown", None),
    ],
)
def test_a_hub_reads_the_licence(licence: str, strictness: int, license: str, name: str | None) -> None:
    made = facts(stated(licence, licence={"name": licence, "strictness": strictness}))
    data = ModelCard(render_card(made)).data
    assert (data.license, data.license_name, data.base_model) == (license, name, None)
    of_base = ModelCard(render_card({**made, "training": {**made["training"], "base": {"kind": "hub", "name": "a/b"}}})).data
    assert of_base.license == "other"
    assert of_base.license_name.endswith("-and-base-model")
    assert of_base.base_model == "a/b"


def test_a_hub_reads_what_it_is() -> None:
    data = ModelCard(render_card(facts(stated(modalities={"DX": 5, "unknown": 2}, languages={"en": 3, "unknown": 1})))).data
    assert (data.pipeline_tag, data.library_name, data.language) == ("image-text-to-text", "transformers", ["en"])
    assert data.datasets == ["films"]
    assert {"medical", "medclm", "vip-llava", "dx"} <= set(data.tags)


def test_shares_of_writers_are_told() -> None:
    writers = {"openai:big": 25, "local:small": 25, "template": 40, "published": 10}
    shown = section(render_card(facts(stated(writers=writers))), "Training data")
    assert "openai:big 25, local:small 25" in shown
    assert "50.0% worded by a language model; 40.0% made from fixed phrasings; 10.0% taken over from elsewhere" in shown


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "accepted"), (20, "not accepted")])
def test_a_review_is_told_without_its_readers(tmp_path: Path, wrong: int, verdict: str) -> None:
    folder = write_small_corpus(tmp_path / "small")
    assert "not reviewed" in render_card(facts(corpus_facts(Corpus(folder), "train")))
    said = ["wrong_box"] * wrong + ["right"] * (200 - wrong)
    write_review(folder, assess([Judged(str(k), "easy", "d", "w", {"ReaderX": one}) for k, one in enumerate(said)]))
    card = render_card(facts(corpus_facts(Corpus(folder), "train")))
    assert f"200 samples judged by 1 reader, {wrong} with a wrong fact" in card
    assert f"; {verdict} (limit 2 %)" in card
    assert "ReaderX" not in card
    assert ("No review has accepted" in card) is (verdict != "accepted")


# --- its form -------------------------------------------------------------------------------------------------------------


def hostile_card(name: str) -> str:
    """A card in which `name` stands wherever a text from outside may."""
    corpus = stated(name, trained_split=name, domains={name: 3}, modalities={name: 7}, writers={name: 3}, languages={name: 3})
    corpus["question_kinds"] = {name: 3}
    corpus["sources"][0] |= {"name": name, "label_scope": [name], "shareable": False, "images_without_patient": 2}
    one = result(suite=name, benchmark=name, left_out={name: 1}, scores={name: result()["scores"]["answer_accuracy"]})
    made = facts(corpus, run={"name": name}, model={"path": f"/a/{name.replace('/', '')}"}, curriculum={"policy": name})
    evaluated = evaluation(one, **{**ASKED, "split": name, "profile": name, "instruction": name, "month": name})
    return render_card(with_evaluations(made, [evaluated]))


def test_no_name_from_outside_changes_the_form_of_a_card() -> None:
    plain, hostile = hostile_card("plain"), hostile_card(HOSTILE)
    assert outline(hostile) == outline(plain)
    assert "x](https://a.b)| <img src=x> `c` **b** # h ## Notice --- @you www.a.b [31m $x$" in words(hostile)
    assert "\x1b" not in hostile
    assert yaml.safe_load(hostile.split("---\n")[1])["pipeline_tag"] == "image-text-to-text"


@settings(max_examples=150)
@given(st.text(max_size=60))
def test_an_escaped_text_is_one_line_of_text_and_nothing_else(text: str) -> None:
    tokens = PARSER.parse(f"a {escape(text)} b")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {one.type for one in tokens[1].children or ()} == {"text"} or not text.strip()
    span = PARSER.parse(f"a {code(text)} b")[1].children or []
    assert [one.type for one in span if one.type != "text"] in (["code_inline"], [])


def test_a_long_name_is_cut() -> None:
    assert len(escape("n" * 5000)) == 200


def test_equal_facts_give_equal_bytes_and_survive_json(phantoms: Path) -> None:
    made = facts(corpus_facts(Corpus(phantoms), "train"))
    assert render_card(made) == render_card(json.loads(json.dumps(made)))
    two = [evaluation(result(suite=name), **ASKED) for name in ("vqa", "grounding")]
    assert render_card(with_evaluations(made, two)) == render_card(with_evaluations(made, two[::-1]))


def test_an_audit_finds_nothing_in_a_card_with_counts_in_millions() -> None:
    made = with_evaluations(facts(stated(images=1_234_567)), [evaluation(result(n=1_234_567), **ASKED)])
    for told in (render_card(made), json.dumps(made, indent=1)):
        assert find_patterns(told.encode(), patterns()) == []


# --- evaluations ----------------------------------------------------------------------------------------------------------


def test_scores_stand_beside_their_floors_and_empty_ones_are_left_out() -> None:
    made = facts(stated())
    assert "Not evaluated yet." in render_card(made)
    shown = section(render_card(with_evaluations(made, [evaluation(result(), **ASKED)])), "Evaluation")
    assert "### vqa on VQA-RAD, split test" in shown
    assert "40 questions; asked to reason, judged by medclm in 2031-05; left out: 2 no picture." in shown
    assert "| `answer_accuracy` | 0.75 | 0.600 to 0.875 | 0.25 | 40 |" in shown
    assert "closed_accuracy" not in shown
    assert "somewhere" not in shown
    assert "Not evaluated yet." not in shown


def test_a_later_evaluation_replaces_the_same_one_and_no_other() -> None:
    first = evaluation(result(), **ASKED)
    better = result(scores={"answer_accuracy": {"value": 0.9, "ci95": None, "floor": None, "n": 40}})
    others = [evaluation(result(), **{**ASKED, "blank": True}), evaluation(result(), **{**ASKED, "limit": 40})]
    made = with_evaluations(with_evaluations(facts(stated()), [first, *others]), [evaluation(better, **ASKED)])
    shown = section(render_card(made), "Evaluation")
    assert [one["scores"]["answer_accuracy"]["value"] for one in made["evaluations"]] == [0.75, 0.9, 0.75]
    assert "| 0.9 | none | none | 40 |" in shown
    assert shown.count("grey pictures instead of the real ones") == 1
    assert shown.count("a draw of at most 40") == 1


def test_a_folder_whose_card_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("theirs")
    assert add_evaluations(tmp_path, [evaluation(result(), **ASKED)]) is None
    assert (tmp_path / CARD).read_text() == "theirs"
    (tmp_path / FACTS).write_text(json.dumps({**facts(stated()), "format": 9}))
    with pytest.raises(ValueError, match=r"format 9, this version reads 1: export"):
        add_evaluations(tmp_path, [])


def test_scores_are_added_without_reading_markdown(tmp_path: Path) -> None:
    made = facts(stated())
    (tmp_path / FACTS).write_text(json.dumps(made))
    (tmp_path / CARD).write_text("scribbled over")
    assert add_evaluations(tmp_path, [evaluation(result(), **ASKED)]) == tmp_path / CARD
    added = with_evaluations(made, [evaluation(result(), **ASKED)])
    assert (tmp_path / CARD).read_text() == render_card(added)
    assert json.loads((tmp_path / FACTS).read_text()) == added


# --- the code that it shows -----------------------------------------------------------------------------------------------


def functions(side: int, data: DataSection, tiles: Tiles = "1") -> dict[str, Any]:
    """`square` and `boxes` of the card's code, and `views` where there are several."""
    found: dict[str, Any] = {}
    view = side // SCALES[tiles]
    processor = tiny_processor(tiny_section(image_size=view, patch_size=8, tiles=tiles))
    exec(asking_code(processor, data).split("processor =")[0], found)
    return found


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("frame", ["padded", "original", "resized"])
@pytest.mark.parametrize("scale", ["1", "100", "1000", "px"])
def test_the_cards_code_reads_boxes_as_we_do(fit: str, frame: str, scale: str) -> None:
    data = DataSection(fit=fit, box_text=BoxTextSection(frame=frame, scale=scale, digits=4))
    read = functions(336, data)["boxes"]
    draw = np.random.default_rng(0)
    for width, height in ((400, 100), (100, 400), (336, 336), (1023, 517), (31, 77)):
        ours = ImageFrame(width, height, side=336, fit=fit)
        corner = draw.uniform(0, 0.5, 2)
        box = Box(*corner, *(corner + draw.uniform(0.2, 0.5, 2)))
        text = f"Reasoning: a mass at {ours.write(box, data.box_text)}.\n\nAnswer: mass [1], [2, 3]"
        (found,) = read(text, width, height)
        (expected,) = ours.find_boxes(text, data.box_text)
        np.testing.assert_allclose(found, expected.scaled(width, height), atol=1e-6)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (200, 50), (51, 200), (999, 1000)])
def test_the_cards_code_makes_the_square_that_we_make(fit: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ours = ImageFrame(*size, side=64, fit=fit).place(picture)
    theirs = functions(64, DataSection(fit=fit))["square"](picture)
    np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))


def test_the_cards_code_makes_the_views_that_we_make() -> None:
    square = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    theirs = functions(64, DataSection(), "1+4")["views"](square)
    assert "views" not in functions(64, DataSection())
    for one, other in zip(theirs, views_of(square, "1+4"), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_the_worked_example_reads_back_as_the_box_that_it_shows() -> None:
    data = DataSection()
    asking = asking_facts(tiny_processor(), data)
    (width, height), box = asking["example"]["size"], asking["example"]["box_px"]
    (found,) = functions(32, data)["boxes"](asking["example"]["written"], width, height)
    np.testing.assert_allclose(found, box, atol=1000 * 0.5 * 10**-data.box_text.digits + 1e-9)
    assert f"`{asking['example']['written']}` for the box [250, 200, 500, 400]" in render_card(facts())


def test_the_prompt_that_it_shows_is_the_one_that_is_trained() -> None:
    processor = tiny_processor()
    asking = asking_facts(processor, DataSection())
    prompt = asking["prompt"]["before"] + "Why?" + asking["prompt"]["after"]
    theirs = processor.inner(text=prompt, images=Image.new("RGB", (32, 32)), return_tensors="np")["input_ids"][0]
    assert theirs.tolist() == processor.prompt_ids("Why?")


def test_a_card_says_how_a_model_with_tiles_is_shown_a_picture() -> None:
    asking = asking_facts(tiny_processor(tiny_section(tiles="1+4")), DataSection())
    card = render_card(facts() | {"asking": asking})
    assert asking["prompt"]["before"].count("<image>") == 5
    assert "then 64 x 64 pixels." in card
    assert "The model sees it as five pictures of 32 x 32" in card
    assert "images=views(square(picture))" in card
    old = asking_facts(tiny_processor(), DataSection())
    del old["tiles"]  # cards of before did not say it
    assert render_card(facts() | {"asking": old}) == render_card(facts())
    assert "five pictures" not in render_card(facts())
