"""A few questions asked of a model while it is being trained: the scores that a training run may keep its best checkpoint by.

The launcher hands this to training, which knows nothing of suites (train and eval do not know each other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eval.decoding import Decoding
from eval.example import Square, Terms
from eval.model import LocalModel
from eval.pool import corpus_pool
from eval.respondent import Asked, read_reply
from eval.suite import Suite, table
from eval.suites.grounding import GroundingSuite
from eval.suites.vqa import VqaSuite
from medclm.config import BoxTextSection, DataSection
from medclm.data.shards import Corpus

if TYPE_CHECKING:
    from torch import nn

    from medclm.models.protocol import Processor

SCORES = ("answer_accuracy", "closed_accuracy", "parsed_rate", "mean_iou", "answer_and_box", "false_positive_rate")


class Exam:
    """The same questions each time, answered greedily.

    Args:
        corpus, split: where the questions come from.
        questions: how many, evenly spread over the split.
        data: how pictures and boxes are shown and written.
        batch_size, max_new_tokens: of the decoding.
    """

    def __init__(
        self, corpus: Corpus, *, split: str, questions: int, data: DataSection, batch_size: int, max_new_tokens: int
    ) -> None:
        self._pool = corpus_pool(corpus, split)
        stride = max(1, len(self._pool.asked) // questions)
        self._chosen = {one.id for one in self._pool.asked[::stride][:questions]}
        self._fit, self._box_text = data.fit, BoxTextSection(**data.box_text.model_dump())
        self._decoding = Decoding(max_new_tokens=max_new_tokens, batch_size=batch_size)

    def __call__(self, network: nn.Module, processor: Processor) -> dict[str, float]:
        """`validation/SCORE` of the scores that these questions have."""
        square = Square(side=processor.image_size, patch_size=processor.patch_size, fit=self._fit)
        model = LocalModel(network, processor, square, self._box_text, self._decoding)
        terms = Terms("reason", square)
        suites: list[Suite] = [VqaSuite(self._pool, terms), GroundingSuite(self._pool, terms)]
        for suite in suites:
            suite.examples = [one for one in suite.examples if one.id in self._chosen]
        asked = {(a := Asked(one, ask)).id: a for suite in suites for one in suite.examples for ask in suite.asks(one)}
        pictures = self._pool.pictures
        assert pictures is not None
        replies = {one.id: reply for one, reply in model.replies(list(asked.values()), pictures, lambda _: None)}
        found = {}
        for suite in suites:
            said = [
                {
                    ask.name: read_reply(replies[Asked(one, ask).id], square.frame(pictures.size(one.picture)), self._box_text)
                    for ask in suite.asks(one)
                }
                for one in suite.examples
            ]
            judged = suite.judge(suite.examples, said)
            for metric in suite.metrics():
                if metric.name in SCORES and (value := metric.of(table(judged, metric.columns))) is not None:
                    found[f"validation/{metric.name}"] = value
        return found
