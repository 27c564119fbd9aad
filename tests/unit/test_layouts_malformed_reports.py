"""Broken files of reports, labels and boxes: each is read, or refused by name with a cure; never another exception."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from eval.layouts.layout import find_layouts, open_pool
from medclm.draws import generator
from tests.unit.layout_fixtures_reports import MAKERS, Made
from tests.unit.test_sources_malformed import MUTATIONS

EACH = -(-250 // len(MAKERS))
"""Broken benchmarks of each form."""
CURES = re.compile(
    r"expected|give|correct|choose|remove|rename|fill (?:it |)in|save|close|quote|did you mean|there (?:is|are)|fetch|keep|put|"
    r"redraw|make"
)


def of_half_characters(content: bytes, draw: np.random.Generator) -> bytes:
    """Half of a character somewhere in a text, as JSON may write it."""
    text = content.decode()
    letters = list(re.finditer(r"\w", text))
    at = letters[int(draw.integers(len(letters)))].start()
    return f"{text[:at]}\\ud83e{text[at + 1 :]}".encode()


ALL = (*MUTATIONS, of_half_characters)


def outcome(made: Made, broken: Path) -> str:
    """read or refused; anything else fails."""
    for layout in find_layouts().values():
        layout.recognises(made.data)  # never raises
    try:
        pool = open_pool(made.data, made.split, layout=made.layout)
    except ValueError as error:
        message = str(error)
        named = str(broken.parent if broken.suffix == ".xml" else broken)
        assert named in message or "nothing to ask" in message or "choose one of them" in message, message
        assert CURES.search(message), message
        return "refused"
    assert len({example.id for example in pool.asked}) == len(pool.asked) > 0
    for example in pool.asked:
        texts = (example.id, example.patient, example.question, *example.answers, *example.groups.values())
        json.dumps([*texts, example.picture], ensure_ascii=False).encode()  # can be written to a file
        assert not str(example.picture).startswith("/")
        assert ".." not in str(example.picture).split("/")
        assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in example.boxes_unit)
        assert set(example.labels.values()) <= {0.0, 1.0, -1.0}
    return "read"


@pytest.mark.parametrize("case", sorted(MAKERS))
def test_broken_files_are_read_or_refused_by_name(case: str, tmp_path: Path) -> None:
    made = MAKERS[case](tmp_path)
    valid = {path: path.read_bytes() for path in made.texts}
    assert outcome(made, tmp_path) == "read"
    outcomes: Counter[str] = Counter()
    for number in range(EACH):
        draw = generator(21, f"malformed layout {case} {number}")
        path = made.texts[number % len(made.texts)]
        mutate = ALL[int(draw.integers(len(ALL)))]
        path.write_bytes(mutate(valid[path], draw))
        try:
            outcomes[outcome(made, path)] += 1
        except Exception as error:
            error.add_note(f"{case} {number}: {mutate.__name__} of {path.name}: {path.read_bytes()[:2000]!r}")
            raise
        path.write_bytes(valid[path])
    assert outcomes.total() == EACH
    assert outcomes["refused"] > 0  # the mutations do break things


def test_two_hundred_and_fifty_are_broken_in_all() -> None:
    assert EACH * len(MAKERS) >= 250
