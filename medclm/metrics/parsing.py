"""From a model's text to what is scored: split off the answer, normalise words, read numbers, sides and options.

One reading of a text for every metric, so that two scores never disagree on what was said. Knows nothing of boxes (those are
read by data/frame.py), of models or of files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_ANSWER = re.compile(r"\banswer\s*[:：]", re.IGNORECASE)
_REASONING = re.compile(r"^\s*reasoning\s*[:：]", re.IGNORECASE)
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:\d+)?", re.UNICODE)
_OPTION = re.compile(r"(?:^|[\s(;,])([A-H])\s*[).:]\s*(.+?)(?=[\s(;,]+[A-H]\s*[).:]\s|$)", re.DOTALL)
_LETTER = re.compile(r"^\s*\(?([A-Ha-h])(?:\s*[).:]\s*(.*)|\s*)$", re.DOTALL)
_PIECE = re.compile(r"[\u3400-\u9fff]|[^\u3400-\u9fff]+")
"""A Chinese character, or a run of others: Chinese is written without blanks, so its characters are counted as words."""
_CHINESE = re.compile(
    r"(?P<open>是否|是不是|有没有|有无|无法|不(?:确定|清楚|知道|能))"
    r"|(?P<no>不是|没有|不存在|否|没|无|不)"
    r"|(?P<yes>是|有|存在|对(?![称比侧]))"
)
"""How a Chinese text begins that says yes or no; `open` are beginnings that look so and say neither."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*-?\s*(mm|millimet(?:re|er)s?|cm|centimet(?:re|er)s?)\b", re.IGNORECASE)

_NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
)
_WORDS: Mapping[str, str] = {
    **{word: str(number) for number, word in enumerate(_NUMBERS)},
    **dict.fromkeys(("l", "lt"), "left"),
    **dict.fromkeys(("r", "rt"), "right"),
}
_ARTICLES = frozenset(("a", "an", "the"))
_SIDES = frozenset(("left", "right", "bilateral", "midline"))


@dataclass(frozen=True)
class Parsed:
    """A completion taken apart."""

    rationale: str
    """What stands before the last `Answer:` without its leading `Reasoning:`; the whole text where there is no answer."""
    answer: str | None
    """What follows the last `Answer:`, stripped; None = unparsed, which every metric counts as wrong."""


def split_completion(text: str) -> Parsed:
    """Rationale and answer of a completion; an `Answer:` followed by nothing is no answer."""
    marks = list(_ANSWER.finditer(text))
    answer = text[marks[-1].end() :].strip() if marks else ""
    before = text[: marks[-1].start()] if marks else text
    return Parsed(rationale=_REASONING.sub("", before, count=1).strip(), answer=answer or None)


def tokens(text: str) -> list[str]:
    """Normalised words: lower case, compatibility forms folded, no punctuation, articles dropped, `two` -> `2`, `L` -> `left`.

    A decimal point inside a number stays (`2.50` -> `2.5`); a hyphen separates words. A text of articles alone keeps them: it
    is the name of something (`A` of the panels A and B).
    """
    found = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    kept = [token for token in found if token not in _ARTICLES] or found
    return [_number(_WORDS.get(token, token)) for token in kept]


def pieces(text: str) -> list[str]:
    """`tokens` with Chinese taken character by character: for scores that count shared words. What is named is read in whole
    `tokens`, since one Chinese word is often a part of another (lung, pneumonia)."""
    return [piece for token in tokens(text) for piece in _PIECE.findall(token)]


def _number(token: str) -> str:
    return f"{float(token):.15g}" if token[0].isdecimal() else token


def normalise(text: str) -> str:
    """`tokens` joined by single spaces: equal for texts that say the same in other case, punctuation, articles or digits.

    A text of signs alone (`+`) is itself, so that it equals no other.
    """
    return " ".join(tokens(text)) or text.strip()


def alternatives(answers: Sequence[str]) -> list[str]:
    """Accepted answers, each split on `#` (as VQA-Med writes them), blank and repeated ones (after `normalise`) dropped."""
    kept: dict[str, str] = {}
    for answer in answers:
        for part in answer.split("#"):
            if part.strip():
                kept.setdefault(normalise(part), part.strip())
    return list(kept.values())


def polarity(text: str) -> bool | None:
    """True for a leading yes, False for a leading no, None for neither and for both (`yes and no`, `no, yes`); also in Chinese
    (是, 有; 否, 不是, 没有)."""
    words = [word for word in tokens(text)[:4] if word not in ("and", "or", "but")]
    if not words or words[0] not in ("yes", "no"):
        return _chinese_polarity("".join(words))
    if len(words) > 1 and words[1] in ("yes", "no") and words[1] != words[0]:
        return None
    return words[0] == "yes"


def _chinese_polarity(text: str) -> bool | None:
    """`polarity` of a text without blanks and punctuation."""
    said = _CHINESE.match(text)
    if said is None or said.lastgroup == "open":
        return None
    other = _CHINESE.match(text[said.end() :].lstrip("的和或也"))
    return None if other and other.lastgroup != said.lastgroup else said.lastgroup == "yes"


def options(question: str) -> dict[str, str]:
    """Options of a choice question by letter: `Which? A) liver B) kidney` -> {"A": "liver", "B": "kidney"}; {} if none."""
    found = {letter: text.strip(" \n\t;,.") for letter, text in _OPTION.findall(question)}
    return found if list(found) == [chr(ord("A") + index) for index in range(len(found))] and len(found) > 1 else {}


def chosen(text: str, choices: Mapping[str, str]) -> str | None:
    """Letter of the option a text picks: by its letter (`B`, `(b)`, `B. kidney`) or by exactly its words; None if unclear.

    A letter with the words of another option is unclear. `A nodule` is not the letter A. Marks of emphasis (`**B**`) are none.
    """
    text = text.strip(" \n\t*_`")
    match = _LETTER.match(text)
    if match is None:
        return _by_words(text, choices)
    letter, rest = match[1].upper(), normalise(match[2] or "")
    words = {other: normalise(option) for other, option in choices.items()}
    return letter if letter in choices and (rest == words[letter] or rest not in words.values()) else None


def true_option(answer: str, choices: Mapping[str, str]) -> str | None:
    """Letter of the option that an accepted answer means: by its words, else as `chosen`. Options may be letters themselves."""
    return _by_words(answer, choices) or chosen(answer, choices)


def _by_words(text: str, choices: Mapping[str, str]) -> str | None:
    """The first option with exactly these words."""
    return next((letter for letter, option in choices.items() if normalise(option) == normalise(text)), None)


def count_in(text: str) -> int | None:
    """The first whole number said; `none` and a leading `no` are 0; None where no number is said."""
    words = tokens(text)
    for word in words:
        if word.isdecimal():
            return int(word)
    return 0 if words and (words[0] == "no" or "none" in words) else None


def sides_in(text: str) -> frozenset[str]:
    """Side words said: of left, right, bilateral, midline; `both` and left with right are bilateral."""
    words = frozenset(tokens(text))
    said = words & _SIDES
    if "both" in words or "bilateral" in words or {"left", "right"} <= said:
        return (said - {"left", "right"}) | {"bilateral"}
    return said


def size_mm_in(text: str) -> float | None:
    """The first length with its unit, in millimetres; None where none is given."""
    match = _SIZE.search(text)
    if match is None:
        return None
    return float(match[1]) * (10.0 if match[2].lower().startswith("c") else 1.0)


def singular(token: str) -> str:
    """A rough singular, enough to equate `nodules` with `nodule`; never applied where exactness is asked."""
    if len(token) > 4 and token.endswith("ies"):
        return token[:-3] + "y"
    if len(token) > 4 and token.endswith(("sses", "xes", "ches")):
        return token[:-2]
    if len(token) > 3 and token.endswith("s") and not token.endswith(("ss", "us", "is")):
        return token[:-1]
    return token


_SPLIT = re.compile(r"[,;，；、和]|\band\b", re.IGNORECASE)
_NEGATIONS = frozenset(("no", "not", "without", "neither", "nor", "absent", "never"))


def parts(text: str) -> frozenset[tuple[str, ...]]:
    """What an accepted answer names, split at commas, semicolons and `and` (和): `a cyst and a nodule` -> {(cyst,), (nodule,)}."""
    pieces = (tuple(singular(token) for token in tokens(piece)) for piece in _SPLIT.split(text))
    return frozenset(piece for piece in pieces if piece)


def named_parts(text: str, vocabulary: frozenset[tuple[str, ...]]) -> frozenset[tuple[str, ...]] | None:
    """Which phrases of `vocabulary` a free text names, the longest first; None where it negates outside such a phrase.

    Words that belong to no phrase do not count, so `It is a nodule.` names what `nodule` names, while `nodule or cyst`
    names two things and thus is wrong where one is asked.
    """
    words = [singular(token) for token in tokens(text)]
    longest = max((len(phrase) for phrase in vocabulary), default=0)
    found, position = set(), 0
    while position < len(words):
        lengths = range(min(longest, len(words) - position), 0, -1)
        size = next((size for size in lengths if tuple(words[position : position + size]) in vocabulary), 0)
        if size:
            found.add(tuple(words[position : position + size]))
        elif words[position] in _NEGATIONS:
            return None
        position += max(size, 1)
    return frozenset(found)
