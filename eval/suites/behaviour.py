"""Suite `behaviour`: does the model look. The same question is asked again after one thing about the picture has changed.

- lesion painted over: an answer that was right must change;
- picture mirrored: a side that was right must change;
- grey picture, or another patient's: answers that stay are said without looking;
- highlighted region moved to healthy tissue of equal size: a yes must become a no; another colour must change nothing;
- and without asking again: does the rationale repeat itself, does it name what the answer says.

No score here says how often the model is right; each is a rate over the examples to which its change applies. A model that answers
nothing changes nothing, so every rate stands beside `answered`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.example import Ask, Example, Prediction, Said, Terms, Values, View, number_of
from eval.pool import Pool
from eval.suite import ANSWER, Metric, plain, plain_ask
from eval.suites.vqa import Answers
from medclm.data.draw import COLOURS
from medclm.data.render import COLOUR, with_instruction
from medclm.draws import generator
from medclm.metrics.boxes import as_array, iou_matrix
from medclm.metrics.parsing import alternatives, normalise, pieces, polarity, sides_in
from medclm.types import Box

BLANK, SWAPPED, MIRRORED, OCCLUDED = "blank", "swapped", "mirrored", "occluded"
ON_LESION, ON_HEALTHY, OTHER_COLOUR = "box on the lesion", "box on healthy tissue", "box of another colour"
GRAM = 4
_TRIES = 200
_OPPOSITE = {frozenset({"left"}): frozenset({"right"}), frozenset({"right"}): frozenset({"left"})}


class BehaviourSuite:
    """Every example with a picture and a question of its own."""

    name = "behaviour"
    headline = ("changed_when_occluded", "same_on_blank", "same_on_other_patient")

    def __init__(self, pool: Pool, terms: Terms) -> None:
        self.not_run: dict[str, str] = {}
        self.examples = [one for one in pool.asked if one.question and alternatives(one.answers)]
        missing = len(pool.asked) - len(self.examples)
        self.left_out = pool.left_out | ({"no question or no accepted answer": missing} if missing else {})
        self._terms, self._answers = terms, Answers(pool)
        self._other = _others(self.examples)

    def metrics(self) -> list[Metric]:
        return plain(
            "changed_when_occluded",
            "side_changed_when_mirrored",
            "same_on_blank",
            "same_on_other_patient",
            "no_on_healthy_tissue",
            "yes_on_healthy_tissue",
            "changed_with_colour",
            "repeated_4grams",
            "rationale_names_answer",
            "answered",
            has_floor=False,
        )

    def asks(self, example: Example) -> Sequence[Ask]:
        plain_one = plain_ask(example, self._terms)
        asks = [plain_one, Ask(BLANK, plain_one.question, View("blank"))]
        if (other := self._other.get(example.id)) is not None:
            asks.append(Ask(SWAPPED, plain_one.question, View("swapped", other=other)))
        if example.boxes_unit and example.boxes_known:
            asks.append(Ask(OCCLUDED, plain_one.question, View("occluded", example.boxes_unit)))
        if any(sides_in(answer) in _OPPOSITE for answer in example.answers):
            asks.append(Ask(MIRRORED, plain_one.question, View("mirrored")))
        return [*asks, *self._pointed(example)]

    def _pointed(self, example: Example) -> list[Ask]:
        """The closed question about a drawn region, on the lesion, beside it, and in another colour."""
        if not example.pointed:
            return []
        draw = generator(0, "eval.behaviour", number_of(example.id))
        first, second = (COLOURS[int(at)][0] for at in draw.permutation(len(COLOURS))[:2])
        asks = [
            self._point(example, ON_LESION, example.boxes_unit[0], first),
            self._point(example, OTHER_COLOUR, example.boxes_unit[0], second),
        ]
        healthy = elsewhere(example.boxes_unit, seed=number_of(example.id))
        return asks if healthy is None else [*asks, self._point(example, ON_HEALTHY, healthy, first)]

    def _point(self, example: Example, name: str, box: Box, colour: str) -> Ask:
        question = with_instruction(example.pointed.replace(COLOUR, colour), self._terms.instruction)
        return Ask(name, question, View("boxed", (box,), colour))

    def guess(self, example: Example) -> Said | None:
        return None

    def judge(self, examples: Sequence[Example], said: Sequence[Said]) -> list[Values]:
        return [self._judge(example, one) for example, one in zip(examples, said, strict=True)]

    def _judge(self, example: Example, said: Said) -> Values:
        first = said[ANSWER]
        values: Values = {"answered": float(first.answer is not None), "repeated_4grams": repeated(first.text)}
        if first.answer is None:
            return values
        right = bool(self._answers.judge(example, first.answer).get("right"))
        values["same_on_blank"] = _same(first, said[BLANK])
        if SWAPPED in said:
            values["same_on_other_patient"] = _same(first, said[SWAPPED])
        if OCCLUDED in said and right:
            values["changed_when_occluded"] = 1 - _same(first, said[OCCLUDED])
        if MIRRORED in said and right and sides_in(first.answer) in _OPPOSITE:
            wanted = _OPPOSITE[sides_in(first.answer)]
            values["side_changed_when_mirrored"] = float(sides_in(said[MIRRORED].answer or "") == wanted)
        if first.rationale:
            values["rationale_names_answer"] = _named(first)
        return values | _regions(said)


def _regions(said: Said) -> Values:
    """What the drawn region does to a yes."""
    if ON_LESION not in said:
        return {}
    on_lesion = polarity(said[ON_LESION].answer or "")
    values: Values = {}
    if on_lesion is not None:
        values["changed_with_colour"] = float(polarity(said[OTHER_COLOUR].answer or "") != on_lesion)
    if ON_HEALTHY in said:
        healthy = polarity(said[ON_HEALTHY].answer or "")
        values["yes_on_healthy_tissue"] = float(healthy is True)
        if on_lesion:
            values["no_on_healthy_tissue"] = float(healthy is False)
    return values


def _same(first: Prediction, second: Prediction) -> float:
    return float(normalise(first.answer or "") == normalise(second.answer or ""))


def _named(prediction: Prediction) -> float:
    """1 if every word of the answer stands in the rationale; yes and no, which no rationale says, do not count."""
    wanted = set(pieces(prediction.answer or "")) - {"yes", "no"}
    return float(wanted <= set(pieces(prediction.rationale))) if wanted else float("nan")


def repeated(text: str) -> float:
    """Share of the 4-grams of a text that it has said before; 0 for fewer than two."""
    words = pieces(text)
    grams = Counter(tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0


def elsewhere(boxes_unit: Sequence[Box], *, seed: int) -> Box | None:
    """A box as large as the first that touches none of them; None where no place was found in `_TRIES` draws."""
    wide, high = boxes_unit[0].width, boxes_unit[0].height
    draw, taken = generator(seed, "eval.behaviour.elsewhere"), as_array(boxes_unit)
    for x, y in draw.random((_TRIES, 2)) * (1 - wide, 1 - high):
        box = Box(float(x), float(y), float(x) + wide, float(y) + high)
        if not iou_matrix(as_array([box]), taken).any():
            return box
    return None


def _others(examples: Sequence[Example]) -> dict[str, int | str]:
    """For each example the picture of the next one of the same domain that is of another patient."""
    found: dict[str, int | str] = {}
    for domain in {example.domain for example in examples}:
        same = [example for example in examples if example.domain == domain]
        for at, example in enumerate(same):
            later = (same[(at + step) % len(same)] for step in range(1, len(same)))
            other = next((one for one in later if one.patient != example.patient), None)
            if other is not None:
                found[example.id] = other.picture
    return found
