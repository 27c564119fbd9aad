"""When the next request may go out: the pace of a process, and how long to wait after a failure.

Pure arithmetic on a monotonic clock around one lock. Knows nothing of what is requested.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from medclm.draws import generator


class Pace:
    """Token buckets of depth one for requests and for tokens: work is spread evenly instead of in bursts.

    In any minute at most `requests_per_minute` + 1 requests start, and requests of at most `tokens_per_minute` tokens and the
    last one's. None = no limit. Unpickled in another process it starts afresh, so each process has its own pace.

    Raises:
        ValueError: a limit that is not above 0.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit}: give a number above 0, or leave it out")
        self._limits = requests_per_minute, tokens_per_minute
        self._request_seconds = 60 / requests_per_minute if requests_per_minute else 0.0
        self._token_seconds = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._request_free = self._token_free = -float("inf")
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Pace], tuple[float | None, float | None]]:
        return type(self), self._limits

    def wait(self, tokens: int, stop: threading.Event) -> bool:
        """Whether a request of about `tokens` tokens may go out: true at its moment, false if `stop` is set before."""
        now = time.monotonic()
        return not stop.wait(max(0.0, self.reserve(now, tokens) - now))

    def reserve(self, now: float, tokens: int) -> float:
        """Book the next free moment, in seconds of the clock that `now` is of."""
        with self._lock:
            start = max(now, self._request_free, self._token_free)
            self._request_free = start + self._request_seconds
            self._token_free = start + self._token_seconds * tokens
            return start

    def settle(self, tokens: int) -> None:
        """Book what a request took beyond (or below, if negative) the tokens it was booked with."""
        with self._lock:
            self._token_free += self._token_seconds * tokens

    def hold(self, now: float, seconds: float) -> None:
        """Nothing starts before `now` + `seconds`: the server asked for it."""
        with self._lock:
            self._request_free = max(self._request_free, now + seconds)


def backoff_seconds(attempt: int, seed: int, *, first: float, most: float) -> float:
    """Wait after failure number `attempt` (from 0): doubled each time up to `most`, then drawn from its upper half so that
    requests which failed together do not come back together. The draw belongs to (seed, attempt)."""
    return float(min(most, first * 2.0 ** min(attempt, 60)) * generator(seed, "writer.backoff", attempt).uniform(0.5, 1.0))


def retry_after_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """What a server's `Retry-After` asks for: seconds or a date (RFC 9110, 10.2.3); None = it says nothing readable."""
    stated = headers.get("retry-after", "").strip()
    if stated.isascii() and stated.replace(".", "", 1).isdigit():
        return float(stated)
    try:
        date = email.utils.parsedate_to_datetime(stated)
    except (ValueError, IndexError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())
