"""The stream of records and this rank's share of it, on a small stored corpus."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medclm.config import ConfigError, DataSection
from medclm.data.loader import Loader, _together, balanced, collate
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import DOMAINS, box_unit, record_row, write_small_corpus
from medclm.models.protocol import Processor
from medclm.testing import tiny_processor
from medclm.types import Assignment, Batch, EncodedSample, Stage

IMAGES, G = 36, 12


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(write_small_corpus(tmp_path_factory.mktemp("corpus"), IMAGES))


@pytest.fixture(scope="module")
def renderer(corpus: Corpus) -> Renderer:
    processor: Processor = tiny_processor()
    return Renderer(corpus, processor, DataSection(), seed=0)


def make_stream(corpus: Corpus, **changes: Any) -> Stream:
    options = {"split": "train", "seed": 0, "window": 8, "min_side": 0.0, "image_size": 32, "fit": "pad"}
    return Stream(corpus, **{**options, **changes})


def make_loader(renderer: Renderer, **changes: Any) -> Loader:
    options = {"global_batch_size": G, "micro_batch_size": 2, "rank": 0, "world_size": 1, "workers": 0}
    return Loader(renderer, make_stream(renderer.corpus), **{**options, **changes})


def assignment(stream: Stream, index: int) -> Assignment:
    """A mixed one: the first offered stage, counted from a place that moves."""
    offered = stream.describe(index, G).offered
    stages = [next(s % 3 for s in range(g, g + 3) if row[s % 3]) for g, row in enumerate(offered)]
    return Assignment(batch_index=index, stages=np.array(stages, np.uint8), stop=False)


def load(loader: Loader, stream: Stream, batches: int = 3) -> list[Batch]:
    for index in range(batches):
        loader.submit(assignment(stream, index))
    taken = [batch for index in range(batches) for batch in loader.take(index)]
    loader.close()
    return taken


def test_the_stream_visits_every_record_of_its_split_once_an_epoch(corpus: Corpus) -> None:
    stream = make_stream(corpus)
    size = len(stream.order)
    splits = [corpus.row("records", row, ["split"])["split"] for row in range(IMAGES)]
    expected = [row for row, split in enumerate(splits) if split == "train"]
    assert len(corpus.record_files("train")) > 2
    assert size == len(expected) == 27
    for epoch in range(3):
        assert sorted(stream.record_rows(np.arange(epoch * size, (epoch + 1) * size)).tolist()) == expected
    assert set(make_stream(corpus, split="val").record_rows(np.arange(9)).tolist()) == set(range(IMAGES)) - set(expected)


def test_describe_says_what_the_records_say(corpus: Corpus) -> None:
    batch = make_stream(corpus).describe(2, G)
    assert batch.positions.tolist() == list(range(24, 36))
    assert (batch.offered.shape, batch.offered.dtype, batch.domains.dtype) == ((G, 3), np.dtype(bool), np.dtype(np.int64))
    for row, domain, offered in zip(batch.record_rows.tolist(), batch.domains, batch.offered, strict=True):
        record = corpus.row("records", row)
        assert DOMAINS[domain] == record["domain"]
        assert offered.tolist() == [bool(record[f"question_{stage.key}"]) for stage in Stage]
    assert not batch.offered.all()


def side_px(image: int, k: int, size: int, fit: str) -> float:
    """Oracle: the short side of a stored box in the model's square."""
    x0, y0, x1, y1 = box_unit(image, k)
    width, height = ((96, 64), (64, 64), (60, 120))[image % 3] if fit == "pad" else (1, 1)
    return min((x1 - x0) * width, (y1 - y0) * height) * size / max(width, height)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("min_side", [6.5, 7.5, 8.5])
def test_too_small_boxes_are_left_out_and_counted_by_class(corpus: Corpus, fit: Any, min_side: float) -> None:
    stream = make_stream(corpus, min_side=min_side, fit=fit)
    kept, dropped, withheld = [], Counter[str](), Counter[str]()
    for row in range(IMAGES):
        record = corpus.row("records", row)
        if record["split"] != "train":
            continue
        own = [a for a in record["annotation_rows"] if side_px(a // 2, a % 2, 32, fit) < min_side]
        partner = record["hard_annotation_row"]
        if own:
            dropped[DOMAINS[own[0] // 2 % 2].split(" / ")[0]] += 1
            continue
        kept.append(row)
        if partner >= 0 and side_px(partner // 2, partner % 2, 32, fit) < min_side:
            withheld[DOMAINS[partner // 2 % 2].split(" / ")[0]] += 1
    assert stream.dropped == dict(dropped)
    assert stream.hard_withheld == dict(withheld)
    assert 0 < len(kept) < 27
    assert sorted(stream.record_rows(np.arange(len(stream.order))).tolist()) == kept
    described = stream.describe(0, len(kept))
    full = {row: corpus.row("records", row)["question_hard"] is not None for row in kept}
    lost = sum(
        full[row] and not hard for row, hard in zip(described.record_rows.tolist(), described.offered[:, 2], strict=True)
    )
    assert lost == sum(withheld.values())


def test_a_record_with_nothing_but_a_withheld_hard_stage_is_left_out(tmp_path: Path) -> None:
    hard_only = {
        "annotation_rows": [],
        "question_easy": None,
        "question_medium": None,
        "hard_image_row": 1,
        "hard_annotation_row": 2,
    }
    no_finding = {"annotation_rows": [], "hard_annotation_row": -1}
    records = [record_row(0, images=4, **hard_only), record_row(3, images=4, **no_finding)]
    corpus = Corpus(write_small_corpus(tmp_path, 4, records=records))
    assert make_stream(corpus, min_side=side_px(1, 0, 32, "pad") - 1e-3).dropped == {}
    stream = make_stream(corpus, min_side=side_px(1, 0, 32, "pad") + 1e-3)
    assert stream.dropped == {"nodule": 1}
    assert stream.record_rows(np.arange(2)).tolist() == [1, 1]


def test_empty_streams_are_refused_by_key(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"data\.split=test: .* use one of train \(27 records\), val \(9 records\)"):
        make_stream(corpus, split="test")
    with pytest.raises(ValueError, match=r"data\.split=dev"):
        make_stream(corpus, split="dev")
    only_lesions = make_stream(corpus, min_side=12.0)  # "no finding" records have no box to be small
    assert sum(only_lesions.dropped.values()) + len(only_lesions.order) == 27


def test_every_record_left_out_is_refused_with_the_counts(tmp_path: Path) -> None:
    corpus = Corpus(write_small_corpus(tmp_path, 3, records=[record_row(0, images=3), record_row(1, images=3)]))
    with pytest.raises(ValueError, match=r"data\.min_side=30\.0 leaves out every record .*\(mass: 1, nodule: 1\)"):
        make_stream(corpus, min_side=30.0)


def test_the_state_goes_through_json_and_names_what_differs(corpus: Corpus) -> None:
    stream = make_stream(corpus, min_side=5.0)
    state = json.loads(json.dumps(stream.state()))
    stream.check_state(state)
    with pytest.raises(ValueError, match=r"run\.seed was 0, is 1; data\.shuffle_window was 8, is 9"):
        make_stream(corpus, min_side=5.0, seed=1, window=9).check_state(state)
    with pytest.raises(ValueError, match=r"data\.corpus was 'other'"):
        stream.check_state({**state, "manifest": "other"})


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bytes_with_any_number_of_threads(renderer: Renderer, workers: int) -> None:
    stream = make_stream(renderer.corpus)
    plain = load(make_loader(renderer), stream)
    threaded = load(make_loader(renderer, workers=workers), stream)
    for batch, other in zip(plain, threaded, strict=True):
        for name, tensor in vars(batch).items():
            assert torch.equal(torch.as_tensor(tensor), torch.as_tensor(getattr(other, name))), name


def test_a_loader_that_starts_later_reads_the_same(renderer: Renderer) -> None:
    """A resume in the middle of the second epoch needs nothing but the batch index."""
    stream, index = make_stream(renderer.corpus), 3
    whole = load(make_loader(renderer), stream, index + 1)[-6:]
    resumed = make_loader(renderer, workers=2)
    resumed.submit(assignment(make_stream(renderer.corpus), index))
    for batch, other in zip(resumed.take(index), whole, strict=True):
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(other, name))) for name, value in vars(batch).items()
        )
    resumed.close()


@pytest.mark.parametrize(("world", "micro"), [(2, 2), (2, 3), (3, 4), (4, 1)])
def test_ranks_share_the_batch_that_one_rank_reads(renderer: Renderer, world: int, micro: int) -> None:
    stream = make_stream(renderer.corpus)

    def samples(loaders: list[Loader]) -> dict[int, tuple[int, int, list[int], bytes]]:
        found = {}
        for loader in loaders:
            for batch in load(loader, stream, 2):
                for row, position in enumerate(batch.positions.tolist()):
                    ids = batch.input_ids[slice(*batch.bounds[row : row + 2])].tolist()
                    pixels = batch.pixel_values[row].numpy().tobytes()
                    assert position not in found
                    found[position] = (int(batch.stages[row]), int(batch.domains[row]), ids, pixels)
        return found

    alone = samples([make_loader(renderer)])
    together = samples([make_loader(renderer, rank=rank, world_size=world, micro_batch_size=micro) for rank in range(world)])
    assert alone == together
    assert sorted(alone) == list(range(2 * G))


def test_a_micro_batch_has_the_promised_shape(renderer: Renderer) -> None:
    stream = make_stream(renderer.corpus)
    loader = make_loader(renderer, micro_batch_size=4)
    wanted = assignment(stream, 0)
    loader.submit(wanted)
    batches = loader.take(0)
    assert len(batches) == 3
    for batch in batches:
        assert len(batch.stages) == 4
        lengths = batch.bounds.diff()
        assert batch.bounds[0] == 0
        assert int(lengths.sum()) == len(batch.input_ids)
        assert int(lengths.max()) == batch.longest
        assert (batch.input_ids[batch.bounds[1:] - 1] == renderer.processor.eos_id).all()
        assert batch.places.tolist() == [place for length in lengths.tolist() for place in range(length)]
        assert batch.targets.tolist() == batch.segments.nonzero()[:, 0].tolist()
        assert batch.target_samples.tolist() == [int((batch.bounds[1:] <= place).sum()) for place in batch.targets]
        assert batch.stages.tolist() == wanted.stages[batch.positions].tolist()
        dtypes = [t.dtype for t in (batch.input_ids, batch.segments, batch.pixel_values, batch.stages, batch.domains)]
        assert dtypes == [torch.int64, torch.uint8, torch.float32, torch.uint8, torch.int64]
    one = renderer.sample(0, 0, Stage.MEDIUM)
    assert collate([(one, renderer.encode(one))]).pixel_values.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_surfaces_in_take_and_names_the_record(tmp_path: Path, renderer: Renderer, workers: int) -> None:
    records = [record_row(i, images=4, hard_image_row=99 if i == 2 else 0) for i in range(4)]
    broken = Renderer(Corpus(write_small_corpus(tmp_path, 4, records=records)), renderer.processor, DataSection(), seed=0)
    loader = make_loader(broken, global_batch_size=4, workers=workers)
    loader.submit(Assignment(0, np.full(4, Stage.HARD, np.uint8), stop=False))
    with pytest.raises(ConfigError, match=r"batch 0: record r00002: .*images row 99.*; data\.on_bad_record=quarantine lets"):
        loader.take(0)  # as a ConfigError, which any rank tells: the other ranks know nothing of it
    loader.submit(Assignment(1, np.full(4, Stage.MEDIUM, np.uint8), stop=False))
    assert len(loader.take(1)) == 2  # the threads live on
    loader.close()


def test_only_submitted_batches_are_held_and_misuse_is_told(renderer: Renderer) -> None:
    stream, loader = make_stream(renderer.corpus), make_loader(renderer, workers=2)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="batch 0 was taken without being submitted"):
        loader.take(0)
    loader.submit(assignment(stream, 0))
    with pytest.raises(ValueError, match="batch 0 "):
        loader.submit(assignment(stream, 0))
    with pytest.raises(ValueError, match="with 3 stages: expected 12"):
        loader.submit(Assignment(1, np.zeros(3, np.uint8), stop=False))
    loader.take(0)
    assert loader._pending == {}
    loader.submit(assignment(stream, 1))
    loader.close()
    assert loader._pending == {}
    assert set(threading.enumerate()) <= before


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_micro_batches_share_the_samples_evenly(count: int, micro: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 200, count * micro)
    samples = [(None, EncodedSample(np.zeros(n, np.int64), np.zeros(n), np.zeros(0))) for n in lengths]
    parts = balanced(samples, micro)
    assert [len(part) for part in parts] == [micro] * count
    assert sorted(map(id, samples)) == sorted(id(sample) for part in parts for sample in part)
    totals = [sum(len(encoded.input_ids) for _, encoded in part) for part in parts]
    assert max(totals) - min(totals) <= lengths.max()  # a bound of dealing there and back again
    order = {id(sample): index for index, sample in enumerate(samples)}
    assert all(sorted(part, key=lambda sample: order[id(sample)]) == part for part in parts)


def test_the_longest_samples_are_dealt_there_and_back() -> None:
    samples = [(None, EncodedSample(np.zeros(n, np.int64), np.zeros(n), np.zeros(0))) for n in range(1, 9)]
    assert [sum(len(encoded.input_ids) for _, encoded in part) for part in balanced(samples, 4)] == [18, 18]


def test_rendered_samples_are_given_back_once_their_batch_is_made() -> None:
    """By counting references alone: in a cycle they would wait for the collector, a gigabyte of them in a fast run."""
    made: list[weakref.ref[np.ndarray]] = []

    def render() -> np.ndarray:
        array = np.zeros(10)
        made.append(weakref.ref(array))
        return array

    gc.disable()
    try:
        with ThreadPoolExecutor(2) as pool:
            assert _together(pool, [render] * 8, len).result() == 8
        assert len(made) == 8
        assert not [one for one in made if one() is not None]
    finally:
        gc.enable()
