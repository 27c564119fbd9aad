"""A list on disk is the list it was made of, here and in other processes, and leaves nothing behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from medclm.corpus.sources.spool import Spool

ITEMS = [{"id": 1, "bbox": [0.1, 2, 3.5, 4e300]}, "text with \u00e9 and \U0001f642", None, [[]], {}, float("inf"), True]


def test_it_is_the_list_it_was_made_of() -> None:
    spool = Spool(iter(ITEMS))
    assert list(spool) == ITEMS
    assert [spool[number] for number in (6, 0, -1, 3)] == [ITEMS[6], ITEMS[0], ITEMS[-1], ITEMS[3]]
    assert spool[1:5:2] == ITEMS[1:5:2]
    assert len(spool) == 7
    with pytest.raises(IndexError):
        spool[7]
    assert list(Spool([])) == []


def read(spool: Spool, index: int) -> object:
    return spool[index]


def test_workers_read_the_same_file_and_do_not_remove_it() -> None:
    spool = Spool(ITEMS)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.starmap(read, [(spool, index) for index in range(7)]) == ITEMS
    assert len(pickle.dumps(Spool([{"text": "x" * 100_000}] * 10))) < 2_000
    assert list(spool) == ITEMS


def test_its_file_goes_with_it() -> None:
    spool = Spool(ITEMS)
    path = Path(spool.__getstate__()["_path"])
    assert path.exists()
    assert os.stat(path).st_mode & 0o077 == 0
    del spool
    gc.collect()
    assert not path.exists()
