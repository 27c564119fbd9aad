"""What the ranks send each other about the curriculum: rows of bytes, of fixed length and sealed with a checksum.

A message is one numpy record. Many of one kind are an array of them, so that rank 0 opens the reports of thousands of ranks
at once. Every kind begins with the same head; `read` refuses a row of another version, batch or checksum and names all
three. Pure; imports no torch.
"""

from __future__ import annotations

import functools

import numpy as np

VERSION = 3
STOP, SKIPPED, EMPTY, ERROR = 1, 2, 4, 8
"""Flags: a stop is wanted; the step was skipped; the report holds no losses; the answer holds a reason instead of stages."""

_HEAD = [("check", "<u8"), ("batch_index", "<i8"), ("version", "u1"), ("flags", "u1")]


def _kind(*fields: tuple[str, str] | tuple[str, str, tuple[int, ...]]) -> np.dtype[np.void]:
    """The head and `fields`, padded to whole 8-byte words for the checksum."""
    packed = np.dtype([*_HEAD, *fields])
    assert packed.names is not None
    assert packed.fields is not None
    places = [packed.fields[name] for name in packed.names]
    return np.dtype(
        {
            "names": packed.names,
            "formats": [place[0] for place in places],
            "offsets": [place[1] for place in places],
            "itemsize": -(-packed.itemsize // 8) * 8,
        }
    )


GREETING = _kind(("numbers", "<i8", (8,)), ("policy", "S64"), ("reason", "S512"))
"""What every rank must have in common, and in rank 0's reply why it is not so. Never changes, so that other versions can read it."""


def report_kind(samples: int) -> np.dtype[np.void]:
    """A rank's word after a batch: float16 losses of its `samples`; tokens, target tokens, peak memory and replaced samples as numbers."""
    return _kind(("numbers", "<i8", (4,)), ("losses", "<f2", (samples,)))


def answer_kind(global_batch_size: int) -> np.dtype[np.void]:
    """Rank 0's word to all: the stages of one global batch, or with the flag ERROR why there are none."""
    return _kind(("reason", "S512"), ("stages", "u1", (global_batch_size,)))


@functools.lru_cache(maxsize=8)
def _weights(words: int) -> np.ndarray:
    """(words,) uint64, odd and unlike each other."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        z = np.arange(1, words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(31))) * np.uint64(0x94D049BB133111EB)
    return z | np.uint64(1)


def checksum(rows: np.ndarray) -> np.ndarray:
    """(R,) uint64 of messages (R,): all words but the checksum itself, weighted and summed modulo 2^64.

    An odd weight makes every change of a single word show; other damage passes with a chance of about 2^-64. A CRC-32 of
    16,384 short messages is a loop of calls and takes 11 ms where this takes 0.6 ms.
    """
    words_RW = rows.view("<u8").reshape(len(rows), -1)[:, 1:]
    return np.asarray(words_RW @ _weights(words_RW.shape[1]))


def seal(message: np.ndarray) -> np.ndarray:
    """The bytes (L,) uint8 of a message (1,) whose fields are filled."""
    message["version"] = VERSION
    message["check"] = checksum(message)
    return message.view(np.uint8)


def read(data: np.ndarray, kind: np.dtype[np.void], *, batch_index: int, receiver: int) -> np.ndarray:
    """Open messages that must be about `batch_index`.

    Args:
        data: (R, L) uint8, the message of rank r in row r.
        receiver: the rank that reads, for the error.

    Returns:
        (R,) records of `kind`.

    Raises:
        RuntimeError: another version, batch index or checksum; names the sender, what came, what was expected and the cure.
    """
    rows = np.ascontiguousarray(data).view(kind)[:, 0]
    right = checksum(rows)
    for name, expected, what, cure in (
        ("version", VERSION, "message of version", "install one version of medclm on every node"),
        ("batch_index", batch_index, "message about batch", "the ranks have come out of step; resume from the last checkpoint"),
        ("check", right, "message with checksum", "it was damaged on its way; resume from the last checkpoint"),
    ):
        wrong = np.flatnonzero(rows[name] != expected)
        if len(wrong):
            sender = int(wrong[0])
            more = f" (and {len(wrong) - 1} more ranks)" if len(wrong) > 1 else ""
            found, due = int(rows[name][sender]), int(np.broadcast_to(expected, len(rows))[sender])
            raise RuntimeError(
                f"rank {receiver}: {what} {found} from rank {sender}{more}, expected {due} for batch {batch_index}: {cure}"
            )
    return rows


def greeting(settings: dict[str, int], policy: str) -> np.ndarray:
    """An open greeting (1,): up to eight whole numbers under the names of `settings`, and a policy's name."""
    row = np.zeros(1, GREETING)
    row["numbers"][0, : len(settings)] = [value % 2**63 for value in settings.values()]  # a seed may be longer than int64
    row["policy"] = policy.encode()
    return row


def first_difference(data: np.ndarray, keys: list[str]) -> str:
    """What the first rank has other than rank 0, with the cure; empty where all are alike.

    Args:
        data: (R, L) uint8, the sealed greeting of rank r in row r.
        keys: of the settings that were greeted with.
    """
    try:
        rows_R = read(data, GREETING, batch_index=0, receiver=0)
    except RuntimeError as error:
        return str(error)
    cure = "start every rank with the same recipe, corpus and checkpoint"
    columns = [(key, rows_R["numbers"][:, column]) for column, key in enumerate(keys)]
    for key, values_R in [*columns, ("curriculum.policy", np.char.decode(rows_R["policy"], errors="replace"))]:
        other = np.flatnonzero(values_R != values_R[0])
        if len(other):
            return f"rank {other[0]} has {key}={values_R[other[0]]}, rank 0 has {values_R[0]}: {cure}"
    return ""
