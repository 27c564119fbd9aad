"""One reader's way through the sample: where he is, what he has said, and the line written for each verdict.

Thread-safe, since a browser asks for several things at once. Knows nothing of HTTP or HTML.
"""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medclm.corpus.review.sample import ReviewSample
from medclm.corpus.review.verdicts import (
    LONGEST_NOTE,
    VERDICTS,
    Verdict,
    append_verdict,
    check_reader,
    latest,
    read_verdicts,
)
from medclm.corpus.review.view import View, gather, picture
from medclm.data.shards import Corpus
from medclm.data.stream import manifest_hash


class ReviewSession:
    """The samples of a review as one reader goes through them; numbers count from 1.

    Args:
        corpus: what is reviewed.
        samples: from `choose`.
        reader: a short label.
        verdict_file: is read for what this reader said before, and appended to.

    Raises:
        ValueError: not a label, or a verdict file that cannot be read or written; see `read_verdicts`.
    """

    def __init__(self, corpus: Corpus, samples: Sequence[ReviewSample], reader: str, verdict_file: Path) -> None:
        self.corpus, self.samples, self.reader, self.path = corpus, tuple(samples), check_reader(reader), verdict_file
        self._corpus_hash = manifest_hash(corpus.manifest)
        self._lock = threading.Lock()
        self._shown: dict[int, float] = {}
        self._said: dict[tuple[str, str], Verdict] = {}
        before = read_verdicts(verdict_file) if verdict_file.exists() else []
        own = (one for one in before if one.corpus == self._corpus_hash and one.reader == reader)
        for (_, record_id, stage), verdict in latest(own).items():
            self._said[record_id, stage] = verdict

    def __len__(self) -> int:
        return len(self.samples)

    def view(self, number: int) -> View:
        """What is shown of a sample; its clock starts.

        Raises:
            IndexError: no such sample.
        """
        view = gather(self.corpus, self._sample(number))
        with self._lock:
            self._shown[number] = time.monotonic()
        return view

    def png(self, number: int, *, drawn: bool) -> bytes:
        """The picture of a sample, with or without what Easy paints on it.

        Raises:
            IndexError: no such sample.
        """
        buffer = io.BytesIO()
        view = gather(self.corpus, self._sample(number))
        picture(self.corpus, view, drawn=drawn).save(
            buffer, format="PNG", compress_level=1
        )  # the way is short: speed over size
        return buffer.getvalue()

    def said(self, number: int) -> Verdict | None:
        """This reader's last verdict about a sample."""
        sample = self._sample(number)
        with self._lock:
            return self._said.get((sample.record_id, sample.stage))

    def judge(self, number: int, verdict: str, note: str = "") -> None:
        """Write a verdict down; it replaces an earlier one.

        Raises:
            IndexError: no such sample.
            ValueError: no such verdict, or a note that is too long.
        """
        sample = self._sample(number)
        if verdict not in VERDICTS:
            raise ValueError(f"verdict {verdict!r}: expected one of {', '.join(VERDICTS)}")
        note = note.replace("\r\n", "\n").strip()
        if len(note) > LONGEST_NOTE:
            raise ValueError(f"the note has {len(note)} characters, at most {LONGEST_NOTE} are kept: shorten it")
        with self._lock:
            began = self._shown.pop(number, None)
            judged = Verdict(
                corpus=self._corpus_hash,
                record_id=sample.record_id,
                stage=sample.stage,
                reader=self.reader,
                verdict=verdict,
                seconds=None if began is None else round(time.monotonic() - began, 1),
                note=note or None,
            )
            append_verdict(self.path, judged)
            self._said[sample.record_id, sample.stage] = judged

    def open_numbers(self) -> list[int]:
        """Samples without a verdict of this reader, in order."""
        with self._lock:
            return [number for number, one in enumerate(self.samples, 1) if (one.record_id, one.stage) not in self._said]

    def counts(self) -> Counter[str]:
        """This reader's verdicts about the samples, by kind."""
        with self._lock:
            said = [self._said.get((sample.record_id, sample.stage)) for sample in self.samples]
        return Counter(one.verdict for one in said if one is not None)

    def _sample(self, number: int) -> ReviewSample:
        if not 1 <= number <= len(self.samples):
            raise IndexError(f"there is no sample {number}: samples are numbered 1 to {len(self.samples)}")
        return self.samples[number - 1]
