"""What was asked for last is held, the rest is made again."""

import pickle
import threading

import pytest

from medclm.recent import Recent


def test_the_longest_unasked_goes_first() -> None:
    recent, made = Recent(2), []

    def ask(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key.upper())

    assert [ask(key) for key in "abacab"] == list("ABACAB")  # c drives out b, not a; b then drives out c
    assert made == list("abcb")
    assert len(recent) == 2


def test_what_cannot_be_made_is_not_held() -> None:
    recent = Recent(2)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert recent.get("a", lambda: 7) == 7


def test_another_process_begins_with_nothing() -> None:
    recent = Recent(1)
    recent.get("a", threading.Lock)  # cannot be pickled itself
    copy = pickle.loads(pickle.dumps(recent))
    assert len(copy) == 0
    assert [copy.get(key, lambda key=key: key) for key in (1, 2, 1)] == [1, 2, 1]
    assert len(copy) == 1


def test_nobody_waits_while_another_makes() -> None:
    recent, wait, found = Recent(2), threading.Event(), []
    slow = threading.Thread(target=lambda: found.append(recent.get("slow", lambda: wait.wait(20))))
    slow.start()
    assert recent.get("quick", lambda: 1) == 1
    wait.set()
    slow.join()
    assert found == [True]
