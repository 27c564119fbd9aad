"""Other people's predictions: read as they come, judged like our own, refused by file and row."""

from __future__ import annotations

import json
import random

import pytest

from eval.example import Example, Square, Terms
from eval.respondent import Asked, read_reply
from eval.stored import Stored
from eval.suite import ANSWER, plain_ask
from medclm.types import Box

TERMS = Terms("direct", Square(336, 14, "pad"))
EXAMPLES = [
    Example(
        id=f"q{i}", patient=f"p{i}", question_kind="what", answer_type="open", question="What?", picture=i, answers=("cyst",)
    )
    for i in range(4)
]
ROWS = [
    {"id": "q0", "answer": "cyst"},
    {"question_id": "q1", "text": "Reasoning: round.\n\nAnswer: a mass", "boxes": [[0.1, 0.2, 0.5, 0.6]], "box_scores": [-0.5]},
    {"id": "q2", "text": "I cannot tell."},
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(stored):
    asked = [Asked(example, plain_ask(example, TERMS)) for example in EXAMPLES]
    replies = {one.example.id: reply for one, reply in stored.replies(asked, None, lambda _: None)}
    return {key: read_reply(reply, None, stored.box_text) for key, reply in replies.items()}


def test_answers_texts_boxes_and_silence(tmp_path):
    stored = Stored(write(tmp_path / "theirs.jsonl", ROWS), EXAMPLES)
    said = read(stored)
    assert [said[f"q{i}"].answer for i in range(4)] == ["cyst", "a mass", None, None]
    assert said["q1"].boxes_unit == (Box(0.1, 0.2, 0.5, 0.6),)
    assert said["q1"].box_scores == (-0.5,)
    assert said["q2"].text == "I cannot tell."  # without `Answer:` a completion is unparsed
    assert stored.missing == 1


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_every_form_says_the_same(tmp_path, form):
    file = tmp_path / f"theirs.{form}"
    rows = [{"id": f"q{i}", "answer": f"a, {i}"} for i in range(4)]
    if form == "json":
        file.write_text(json.dumps(rows))
    elif form == "jsonl":
        write(file, rows)
    else:
        file.write_text("qid,answer\n" + "".join(f'{row["id"]},"{row["answer"]}"\n' for row in rows))
    assert [said.answer for said in read(Stored(file, EXAMPLES)).values()] == ["a, 0", "a, 1", "a, 2", "a, 3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "q9", "answer": "x"}], r":1: id 'q9' is not among the 4 questions, whose first is 'q0'"),
        ([{"id": "q0", "answer": "half \ud83d"}], r":1: answer holds half a character"),
        ([ROWS[0], ROWS[0]], r":2: id 'q0' stands twice"),
        ([{"answer": "x"}], r":1: no id"),
        ([{"id": "q0"}], r":1: neither answer nor text"),
        ([{"id": "q0", "answer": 3}], r":1: answer is a number: expected text"),
        ([{"id": ["q0"], "answer": "x"}], r":1: id is a list"),
        ([{"id": "q0", "answer": "x", "boxes": "none"}], r":1: boxes is a text: expected a list"),
        ([{"id": "q0", "answer": "x", "boxes": [[10, 20, 30, 40]]}], r":1: box \[10, 20, 30, 40\]: expected .*fractions"),
        ([{"id": "q0", "answer": "x", "boxes": [[0.5, 0.2, 0.1, 0.4]]}], r"x0 < x1"),
        ([{"id": "q0", "answer": "x", "boxes": [[0.1, 0.2, 0.3, 0.4]], "box_scores": [1, 2]}], r"2 box_scores for 1 boxes"),
        ([{"id": "q0", "option_scores": ["a"]}], r"option_scores holds 'a': expected numbers"),
        ([], r"no predictions"),
    ],
)
def test_a_wrong_file_is_refused_by_row(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        Stored(write(tmp_path / "theirs.jsonl", rows), EXAMPLES)
    assert "theirs.jsonl" in str(caught.value)


def mutated(rng: random.Random) -> bytes:
    """A valid file with one thing wrong, or none: a field gone or of another type, bytes swapped, cut, or doubled."""
    rows = [dict(row) for row in ROWS]
    row = rng.choice(rows)
    key = rng.choice(list(row))
    kind = rng.randrange(5)
    if kind == 0:
        del row[key]
    elif kind == 1:
        row[key] = rng.choice([None, 1, 1.5, True, [], {}, "", "q0", [[1]], [["a"] * 4], float("nan"), 10**400, "\ud800"])
    text = "".join(json.dumps(one) + "\n" for one in rows).encode()
    if kind == 2:
        text = text[: rng.randrange(len(text))]
    elif kind == 3:
        at = rng.randrange(len(text))
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    elif kind == 4:
        at = rng.randrange(len(text))
        text = text[:at] + text[max(0, at - 20) :]
    return text


def test_a_table_without_ids_is_told_every_name_of_them(tmp_path):
    (tmp_path / "theirs.csv").write_text("name,reply\nq0,cyst\n")
    with pytest.raises(ValueError, match=r"theirs\.csv:1: no column id or question_id or .*: there are name, reply"):
        Stored(tmp_path / "theirs.csv", EXAMPLES)


def test_five_hundred_spoiled_files_are_read_or_refused_by_name(tmp_path):
    rng, refused = random.Random(5), []
    for number in range(500):
        file = tmp_path / f"spoiled{number}.jsonl"
        file.write_bytes(mutated(rng))
        try:
            assert set(read(Stored(file, EXAMPLES))) == {example.id for example in EXAMPLES}
        except ValueError as error:
            refused.append((file.name, str(error)))
    assert [message for name, message in refused if name not in message] == []
    assert 150 < len(refused) < 500


def test_stored_boxes_win_over_written_ones_and_one_ask_may_be_named(tmp_path):
    rows = [{"id": "q0", "ask": ANSWER, "text": "At [0.1, 0.1, 0.2, 0.2]. Answer: cyst", "boxes": []}]
    assert read(Stored(write(tmp_path / "a.jsonl", rows), EXAMPLES))["q0"].boxes_unit == ()
