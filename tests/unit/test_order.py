"""The order of samples: every row once an epoch, the same at any number of ranks, in memory of one window."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.data.order import Order, global_batch, largest_micro_batch, rank_slots
from medclm.draws import generator

FILES = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(sum)


def brute_force_epoch(file_rows: list[int], seed: int, window: int, left_out: set[int], epoch: int) -> list[int]:
    """The permutation written out with lists, as the docstring of `Order` tells it."""
    first = np.cumsum([0, *file_rows])
    files = [[row for row in range(first[f], first[f + 1]) if row not in left_out] for f in range(len(file_rows))]
    draw = generator(seed, "order.files", epoch)
    sequence = [row for f in draw.permutation(len(files)) for row in files[f]]
    offset = int(draw.integers(len(sequence)))
    sequence = sequence[offset:] + sequence[:offset]
    shuffled = []
    for number, start in enumerate(range(0, len(sequence), window)):
        part = sequence[start : start + window]
        shuffled += [part[i] for i in generator(seed, "order.window", epoch, number).permutation(len(part))]
    return shuffled


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], int, int, list[int]]:
    files = draw(FILES)
    rows = st.sets(st.integers(0, sum(files) - 1), max_size=sum(files) - 1)
    return files, draw(st.integers(0, 3)), draw(st.integers(1, 20)), sorted(draw(rows))


@given(layouts(), st.integers(0, 3))
@settings(max_examples=150)
def test_each_epoch_visits_each_row_once_and_equals_brute_force(
    layout: tuple[list[int], int, int, list[int]], epoch: int
) -> None:
    files, seed, window, left_out = layout
    order = Order(files, seed, window, np.array(left_out, dtype=np.int64))
    size = sum(files) - len(left_out)
    rows = order.rows(np.arange(epoch * size, (epoch + 1) * size))
    assert len(order) == size
    assert sorted(rows.tolist()) == [row for row in range(sum(files)) if row not in left_out]
    assert rows.tolist() == brute_force_epoch(files, seed, window, set(left_out), epoch)


def test_a_batch_crosses_the_end_of_an_epoch_without_loss() -> None:
    order = Order([5, 2], seed=1, window=4)
    rows = np.concatenate([order.rows(global_batch(index, 3)) for index in range(7)])  # 21 positions = 3 epochs of 7
    assert sorted(rows.tolist()) == sorted(list(range(7)) * 3)
    assert order.rows(global_batch(2, 3)).tolist() == order.rows(np.array([6, 7, 8])).tolist()


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_same_samples_at_any_number_of_ranks(micro: int) -> None:
    order = Order([30, 17, 9], seed=3, window=16)
    for batch_index in range(4):
        whole = order.rows(global_batch(batch_index, 48))
        for world in (1, 2, 3, 4):
            slots = [rank_slots(48, micro, rank, world) for rank in range(world)]
            assert all(part.shape == (48 // (micro * world), micro) for part in slots)
            assert sorted(np.concatenate([part.ravel() for part in slots]).tolist()) == list(range(48))
            together = np.full(48, -1)
            for part in slots:
                together[part] = order.rows(global_batch(batch_index, 48)[part.ravel()]).reshape(part.shape)
            assert together.tolist() == whole.tolist()


def test_asking_out_of_turn_changes_nothing() -> None:
    order, fresh = Order([40], seed=0, window=8), Order([40], seed=0, window=8)
    order.rows(np.array([399, 5, 77, 12]))
    assert (
        order.rows(np.array([12, 399])).tolist()
        == fresh.rows(np.array([12]))[:1].tolist() + fresh.rows(np.array([399])).tolist()
    )


def test_epochs_and_seeds_differ_and_windows_move() -> None:
    order = Order([64], seed=0, window=16)
    epochs = [order.rows(np.arange(64 * e, 64 * (e + 1))).tolist() for e in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert Order([64], seed=1, window=16).rows(np.arange(64)).tolist() != epochs[0]
    # rows that meet in a window of epoch 0 are not the ones that meet in epoch 1, though there is one file
    assert set(epochs[0][:16]) != set(epochs[1][:16])


def test_memory_grows_with_the_window_not_with_the_rows() -> None:
    def peak(rows: int) -> int:
        tracemalloc.start()
        order = Order([rows // 10] * 10, seed=0, window=1024)
        for index in range(0, rows, rows // 50):
            order.rows(np.arange(index, index + 64))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    small, large = peak(10**5), peak(10**8)
    assert large < 1.2 * small
    assert large < 1024 * 8 * 40


def test_sizes_that_do_not_divide_name_keys_and_values_that_work() -> None:
    with pytest.raises(ValueError, match="not whole") as caught:
        rank_slots(48, 10, 0, 2)
    message = str(caught.value)
    for part in (
        "train.global_batch_size=48",
        "train.micro_batch_size=10",
        "2 rank(s)",
        "=40",
        "=60",
        "train.micro_batch_size=8",
    ):
        assert part in message
    rank_slots(40, 10, 0, 2), rank_slots(60, 10, 1, 2), rank_slots(48, 8, 0, 2)
    with pytest.raises(ValueError, match=r"use train.global_batch_size=8 or .*micro_batch_size=2"):
        rank_slots(4, 4, 0, 2)
    with pytest.raises(ValueError, match="3 rank"):
        rank_slots(48, 16, 0, 5)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        rank_slots(48, 8, 2, 2)


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 8))
def test_the_largest_micro_batch_is_the_largest_that_fits(size: int, micro: int, world: int) -> None:
    fitting = [m for m in range(1, micro + 1) if size % (m * world) == 0]
    if not fitting:
        with pytest.raises(ValueError, match=r"train\.global_batch_size"):
            largest_micro_batch(size, micro, world)
    else:
        assert largest_micro_batch(size, micro, world) == max(fitting)
        assert rank_slots(size, max(fitting), 0, world).shape[1] == max(fitting)


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no row to read"):
        Order([2, 1], seed=0, window=4, left_out=np.arange(3))
    with pytest.raises(ValueError, match="no row to read"):
        Order([], seed=0, window=4)
    with pytest.raises(ValueError, match="ascending"):
        Order([4], seed=0, window=4, left_out=np.array([2, 1]))
    with pytest.raises(ValueError, match="shuffle_window=0"):
        Order([4], seed=0, window=0)


def test_draws_are_named_by_their_arguments_alone() -> None:
    assert generator(1, "a", 2).integers(2**62) == generator(1, "a", np.int64(2)).integers(2**62)  # type: ignore[arg-type]
    streams = [generator(*name).integers(2**62) for name in [(1, "a", 2), (1, "a", 2, 0), (1, "b", 2), (2, "a", 1), (1, "a2")]]
    assert len(set(streams)) == 5
    assert generator(0, "a", 1).integers(0, 2**62) == 3549825789945689785  # a stored run replays on any machine
