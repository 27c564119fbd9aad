"""The last few things that were made, by key. Knows nothing of what they are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class Recent:
    """Holds what was asked for last, for any number of threads; forgotten when pickled.

    Args:
        most: things that are held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """What is held under the key, made now if it is not; threads that ask for it at once may each make it."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                held: _Value = self._held[key]
                return held
        made = make()  # without the lock: it may wait for a disk
        with self._lock:
            self._held[key] = made
            self._held.move_to_end(key)
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return made

    def __getstate__(self) -> int:
        return self._most

    def __setstate__(self, most: int) -> None:
        self.__init__(most)  # type: ignore[misc]
