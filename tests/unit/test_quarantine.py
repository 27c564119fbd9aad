"""Records that cannot be rendered: one error, or the same stand-ins for any ranks, threads and resumes, listed and limited."""

from __future__ import annotations

import json
import os
import resource
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medclm.config import CurriculumSection, DataSection
from medclm.curriculum.decider import LEAST_REPLACED
from medclm.curriculum.registry import make_policy
from medclm.curriculum.service import CurriculumService, Report
from medclm.data.loader import Loader
from medclm.data.mapped import CorpusChanged, ShardLost
from medclm.data.quarantine import QUARANTINE, Quarantine
from medclm.data.render import Renderer
from medclm.data.shards import Corpus
from medclm.data.stream import Stream
from medclm.data.testing import box_unit, record_row, write_small_corpus
from medclm.distributed import ControlPlane, Ranks
from medclm.testing import tiny_processor
from medclm.types import Assignment, Stage
from tests.ranks import run_ranks

IMAGES, G, BATCHES = 36, 12, 6
BAD = (0, 4, 5, 6, 13, 24, 25, 26, 28)
"""Images whose bytes are damaged: several in a row, of both domains, and Hard partners of other records."""


@dataclass(frozen=True)
class Seen:
    """A sample as the model gets it."""

    stage: int
    domain: int
    ids: tuple[int, ...]
    pixels: bytes


def damage(folder: Path, images: tuple[int, ...]) -> Path:
    """Make the stored bytes of some images undecodable, in place; sizes stay."""
    corpus = Corpus(folder)
    for image in images:
        path = folder / corpus.file_of("images", image)
        stored = corpus.image_bytes(image)
        data, begin = path.read_bytes(), path.read_bytes().find(stored)
        assert begin > 0
        path.write_bytes(data[:begin] + stored.replace(b"IHDR", b"IHXR") + data[begin + len(stored) :])
        corpus = Corpus(folder)  # which refuses to read a corpus that was written to
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage(write_small_corpus(tmp_path_factory.mktemp("corpus") / "damaged", IMAGES), BAD)


def parts(folder: Path) -> tuple[Renderer, Stream]:
    corpus = Corpus(folder)
    stream = Stream(corpus, split="train", seed=0, window=8, min_side=0.0, image_size=32, fit="pad")
    return Renderer(corpus, tiny_processor(), DataSection(), seed=0), stream


def assignment(stream: Stream, index: int) -> Assignment:
    """A mixed one: the first offered stage, counted from a place that moves."""
    offered = stream.describe(index, G).offered
    stages = [next(s % 3 for s in range(g, g + 3) if row[s % 3]) for g, row in enumerate(offered)]
    return Assignment(batch_index=index, stages=np.array(stages, np.uint8), stop=False)


def make_loader(renderer: Renderer, stream: Stream, log: Path | None, **changes: Any) -> Loader:
    options = {"global_batch_size": G, "micro_batch_size": 2, "rank": 0, "world_size": 1, "workers": 0}
    quarantine = None if log is None else Quarantine(renderer, stream, log)
    return Loader(renderer, stream, quarantine=quarantine, **{**options, **changes})


def load(folder: Path, log: Path | None, *, first: int = 0, **changes: Any) -> tuple[dict[int, Seen], int]:
    """Batches first .. BATCHES-1 of one rank: samples by position, and how many of them were replaced."""
    renderer, stream = parts(folder)
    loader = make_loader(renderer, stream, log, **changes)
    for index in range(first, BATCHES):
        loader.submit(assignment(stream, index))
    found: dict[int, Seen] = {}
    replaced = 0
    for index in range(first, BATCHES):
        for batch in loader.take(index):
            for row, position in enumerate(batch.positions.tolist()):
                ids = tuple(batch.input_ids[slice(*batch.bounds[row : row + 2])].tolist())
                pixels = batch.pixel_values[row].numpy().tobytes()
                assert position not in found
                found[position] = Seen(int(batch.stages[row]), int(batch.domains[row]), ids, pixels)
        replaced += loader.replaced
    loader.close()
    return found, replaced


def plain(folder: Path) -> tuple[dict[int, Seen], dict[int, tuple[int, int]]]:
    """Oracle, one sample at a time: what the model must get, and position -> (bad record row, row in its place)."""
    renderer, stream = parts(folder)
    corpus = renderer.corpus

    def image_of(row: int, stage: Stage) -> int:
        return int(corpus.row("records", row)["hard_image_row" if stage == Stage.HARD else "image_row"])

    def row_at(position: int) -> int:
        return int(stream.record_rows(np.array([position]))[0])

    found, replaced = {}, {}
    for index in range(BATCHES):
        for place, stage in enumerate(assignment(stream, index).stages.tolist()):
            position = index * G + place
            row = wanted = row_at(position)
            domain = corpus.row("records", wanted)["domain"]
            ahead = position
            while True:
                record = corpus.row("records", row)
                if record["domain"] == domain and record[f"question_{Stage(stage).key}"] and image_of(row, stage) not in BAD:
                    break
                ahead += 1
                row = row_at(ahead)
            sample = renderer.sample(row, position, Stage(stage))
            encoded = renderer.encode(sample)
            found[position] = Seen(stage, sample.domain, tuple(encoded.input_ids.tolist()), encoded.pixel_values.tobytes())
            if row != wanted:
                replaced[position] = (wanted, row)
    return found, replaced


def test_stand_ins_are_the_next_of_their_domain_that_offer_the_stage(folder: Path, tmp_path: Path) -> None:
    expected, replaced = plain(folder)
    assert len(replaced) > 10
    assert {expected[position].stage for position in replaced} == {0, 1, 2}
    found, count = load(folder, tmp_path / QUARANTINE)
    assert found == expected
    assert count == len(replaced)
    # the curriculum's books: stage and domain of every place are those that were decided for
    _, stream = parts(folder)
    for index in range(BATCHES):
        decided = assignment(stream, index).stages.tolist()
        described = stream.describe(index, G)
        places = range(index * G, (index + 1) * G)
        assert [found[place].stage for place in places] == decided
        assert [found[place].domain for place in places] == described.domains.tolist()


def test_every_replaced_sample_is_listed(folder: Path, tmp_path: Path) -> None:
    _, replaced = plain(folder)
    load(folder, tmp_path / QUARANTINE, workers=2)
    corpus = Corpus(folder)
    lines = [json.loads(line) for line in (tmp_path / QUARANTINE).read_text().splitlines()]
    assert {line["position"]: (line["row"], line["replacement_row"]) for line in lines} == replaced
    assert len(lines) == len(replaced)
    for line in lines:
        record = corpus.row("records", line["row"])
        assert (line["record"], line["file"]) == (record["record_id"], corpus.file_of("records", line["row"]))
        assert line["replacement"] == corpus.row("records", line["replacement_row"])["record_id"]
        image = record["hard_image_row" if line["stage"] == "hard" else "image_row"]
        assert f"record {record['record_id']}: " in line["reason"]
        assert f"{corpus.file_of('images', image)}: images row {image} does not decode" in line["reason"]


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_threads_gives_the_same_samples(folder: Path, tmp_path: Path, workers: int) -> None:
    assert load(folder, tmp_path / "a", workers=workers) == load(folder, tmp_path / "b")


@pytest.mark.parametrize(("world", "micro"), [(2, 3), (3, 4)])
def test_any_number_of_ranks_gives_the_same_samples(folder: Path, tmp_path: Path, world: int, micro: int) -> None:
    alone, count = load(folder, tmp_path / "alone")
    log = tmp_path / "together"
    shares = [load(folder, log, rank=rank, world_size=world, micro_batch_size=micro) for rank in range(world)]
    assert {position: seen for found, _ in shares for position, seen in found.items()} == alone
    assert sum(part for _, part in shares) == count
    assert sorted(log.read_text().splitlines()) == sorted((tmp_path / "alone").read_text().splitlines())


def test_a_resumed_stream_gives_the_same_samples(folder: Path, tmp_path: Path) -> None:
    """Nothing is carried over: the stand-in follows from the position."""
    whole, _ = load(folder, tmp_path / "a")
    resumed, _ = load(folder, tmp_path / "b", first=4, workers=2)
    assert resumed == {position: seen for position, seen in whole.items() if position >= 4 * G}


def test_raise_names_record_file_and_row(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"record r\d{5}: .*images-\d{5}\.arrow: images row \d+ does not decode .*copy or build the corpus again",
    ):
        load(folder, None)


@pytest.mark.parametrize("how", ["cut short", "removed"])
@pytest.mark.parametrize(("kind", "records_of_it"), [("images", 10), ("annotations", 5), ("records-train", 10)])
def test_a_lost_shard_is_gone_around_where_the_records_are_known(
    folder: Path, tmp_path: Path, kind: str, records_of_it: int, how: str
) -> None:
    """Lost while the run goes on: with `raise` the end, with `quarantine` as many bad records."""
    whole = write_small_corpus(tmp_path / "whole", IMAGES)
    renderer, stream = parts(whole)
    quarantine = Quarantine(renderer, stream, tmp_path / QUARANTINE)
    position = int(np.argmin(stream.record_rows(np.arange(len(stream.order)))))  # of the first record
    renderer.render(0, position, Stage.MEDIUM)
    victim = whole / f"{kind}-00000.arrow"
    os.truncate(victim, 64) if how == "cut short" else victim.unlink()
    with pytest.raises(ShardLost, match=rf"{kind}-00000\.arrow: {kind.split('-')[0]} row 0 cannot be read: ") as raised:
        renderer.render(0, position, Stage.MEDIUM)
    if kind == "records-train":  # what it offers is not known
        with pytest.raises(ShardLost, match=r"records-train-00000\.arrow"):
            quarantine.render(0, position, Stage.MEDIUM)
        return
    assert str(raised.value).startswith("record r00000: ")
    (sample, _), line = quarantine.render(0, position, Stage.MEDIUM)
    assert line is not None
    assert sample.domain == 0
    replacement = renderer.corpus.row("records", line.replacement_row)
    assert replacement["image_row"] >= records_of_it or not replacement["annotation_rows"]  # it needs nothing of the lost file


def test_a_replaced_shard_always_ends_the_run(tmp_path: Path) -> None:
    whole = write_small_corpus(tmp_path / "whole", IMAGES)
    renderer, stream = parts(whole)
    (whole / "copy").write_bytes((whole / "images-00000.arrow").read_bytes())
    os.replace(whole / "copy", whole / "images-00000.arrow")
    with pytest.raises(CorpusChanged, match=r"record r00000: .*images-00000\.arrow: .* was replaced by another one"):
        Quarantine(renderer, stream, tmp_path / QUARANTINE).render(0, 0, Stage.MEDIUM)


def test_a_record_without_a_stand_in_ends_the_run(tmp_path: Path) -> None:
    records = [record_row(i, images=4) for i in range(4)]
    whole = write_small_corpus(tmp_path / "whole", 4, records=records, splits=["train"])
    renderer, stream = parts(damage(whole, (0, 2)))  # all of one domain
    positions = np.argsort(stream.record_rows(np.arange(4))).tolist()
    with pytest.raises(
        ValueError, match=r"record r00000: .* does not decode .*; and no other record of its domain that offers medium can take"
    ):
        Quarantine(renderer, stream, tmp_path / QUARANTINE).render(0, positions[0], Stage.MEDIUM)
    (sample, _), line = Quarantine(renderer, stream, tmp_path / QUARANTINE).render(1, positions[1], Stage.MEDIUM)
    assert (sample.record_id, line) == ("r00001", None)


def test_a_fault_of_the_program_is_not_the_records(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, stream = parts(folder)
    monkeypatch.setattr(renderer.processor, "pixel_values", lambda image: 1 / 0)
    with pytest.raises(RuntimeError, match="record r00001: ZeroDivisionError"):
        Quarantine(renderer, stream, tmp_path / QUARANTINE).render(1, 1, Stage.MEDIUM)


def test_lines_wait_for_a_full_disk(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    renderer, stream = parts(folder)
    log = tmp_path / QUARANTINE
    log.symlink_to("/dev/full")
    quarantine = Quarantine(renderer, stream, log)
    lines = [line for row in (0, 4) for _, line in [quarantine.render(row, row, Stage.MEDIUM)] if line is not None]
    assert len(lines) == 2
    quarantine.note(lines[:1])
    assert f"{log}: No space left on device: 1 line(s) wait until it can be written" in capfd.readouterr().err
    quarantine.close()
    assert f'never written:\n{{"position": {lines[0].position}' in capfd.readouterr().err
    log.unlink()
    quarantine.note(lines[1:])
    assert [json.loads(line)["record"] for line in log.read_text().splitlines()] == [line.record for line in lines]
    quarantine.close()
    assert capfd.readouterr().err == ""


def test_a_line_that_was_cut_off_by_a_full_disk_is_completed(folder: Path, tmp_path: Path) -> None:
    renderer, stream = parts(folder)
    log = tmp_path / QUARANTINE
    log.write_bytes(b"\n" * 5000)
    quarantine = Quarantine(renderer, stream, log)
    _, line = quarantine.render(0, 0, Stage.MEDIUM)
    assert line is not None
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5100, before[1]))  # room for the first 100 bytes of the line
    try:
        quarantine.note([line])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.stat().st_size == 5100
    quarantine.note([line])
    assert [json.loads(one) for one in log.read_text().strip().splitlines()] == [asdict(line)] * 2


def test_a_hard_stage_that_is_withheld_is_no_stand_in(tmp_path: Path) -> None:
    """A partner's box may be too small to learn from (data.min_side): the record has the texts, and would render."""

    def side(image: int) -> float:
        x0, y0, x1, y1 = box_unit(image, 0)
        width, height = ((96, 64), (64, 64), (60, 120))[image % 3]
        return min((x1 - x0) * width, (y1 - y0) * height) * 32 / max(width, height)

    small, *_, good, bad = sorted((1, 3, 5, 7), key=side)
    no_box = {"annotation_rows": [], "question_easy": None, "rationale_medium": "No bright region is seen."}
    partners = {0: bad, 2: small, 4: small, 8: good}
    records = [
        record_row(row, images=10, hard_image_row=image, hard_annotation_row=2 * image, **no_box)
        for row, image in partners.items()
    ]
    renderer, _ = parts(damage(write_small_corpus(tmp_path / "whole", 10, records=records), (bad,)))
    followers = set()
    for seed in range(8):
        min_side = (side(small) + side(good)) / 2
        stream = Stream(renderer.corpus, split="train", seed=seed, window=8, min_side=min_side, image_size=32, fit="pad")
        order = stream.record_rows(np.arange(8)).tolist()
        position = order.index(0)
        followers.add(order[position + 1])
        _, line = Quarantine(renderer, stream, tmp_path / QUARANTINE).render(0, position, Stage.HARD)
        assert line is not None
        assert line.replacement == "r00008"
    assert followers >= {1, 2, 3}


def train(rank: int, world: int, folder: Path, cases: list[tuple[Path, float, int]]) -> list[dict[str, Any]]:
    """Runs without a model: the real service and loader, over the control plane; what one rank saw of each.

    A case is where the list goes, the limit, and the batch before which all is saved and built anew (-1: none).
    """
    ranks = Ranks(rank, rank, world)
    plane = ControlPlane(ranks, timeout_s=60.0)
    return [train_once(ranks, plane, folder, *case) for case in cases]


def train_once(ranks: Ranks, plane: ControlPlane, folder: Path, log: Path, limit: float, restart_at: int) -> dict[str, Any]:
    rank, world = ranks.rank, ranks.world_size
    renderer, stream = parts(folder)

    def service() -> CurriculumService:
        return CurriculumService(
            policy=make_policy(CurriculumSection(policy="mixture"), domains=2, total_steps=BATCHES),
            describe=lambda index: stream.describe(index, G),
            ranks=ranks,
            plane=plane,
            global_batch_size=G,
            micro_batch_size=2,
            lookahead=2,
            total_steps=BATCHES,
            seed=0,
            quarantine_limit=limit,
        )

    def loader() -> Loader:
        return make_loader(renderer, stream, log, rank=rank, world_size=world, workers=1)

    seen: dict[str, Any] = {"pixels": {}, "replaced": 0, "batches": 0}
    ours, samples = service(), loader()
    try:
        for known in ours.start():
            samples.submit(known)
        for index in range(BATCHES):
            if index == restart_at:
                state = ours.state_dict()
                ours.close()
                samples.close()
                ours, samples = service(), loader()
                box = [state]
                if world > 1:
                    torch.distributed.broadcast_object_list(box, src=0)
                ours.load_state_dict(box[0])
                for known in ours.start():
                    samples.submit(known)
            samples.submit(ours.exchange())
            batches = samples.take(index)
            for batch in batches:
                pixels = [(int(p), row.numpy().tobytes()) for p, row in zip(batch.positions, batch.pixel_values, strict=True)]
                seen["pixels"] |= dict(pixels)
            losses = torch.zeros(G // world)
            ours.report(Report(index, losses, applied=True, stop_wanted=False, replaced=samples.replaced))
            seen["replaced"] += samples.replaced
            seen["batches"] += 1
        seen["state"] = ours.state_dict()["replaced"]
    except RuntimeError as error:
        seen["error"] = str(error)
    ours.close()
    samples.close()
    return seen


def test_two_real_ranks_see_and_count_what_one_does(folder: Path, tmp_path: Path) -> None:
    (alone,) = train(0, 1, folder, [(tmp_path / "alone", 1.0, -1)])
    assert alone["state"] == alone["replaced"] > LEAST_REPLACED
    cases = [(tmp_path / "straight", 1.0, -1), (tmp_path / "resumed", 1.0, 3), (tmp_path / "limited", 0.05, -1)]
    told = run_ranks(2, train, 2, folder, cases, timeout_s=120)
    assert all(isinstance(one, list) for one in told), told
    for case, *both in zip(cases[:2], *told, strict=False):
        assert both[0]["pixels"] | both[1]["pixels"] == alone["pixels"]
        assert both[0]["state"] == sum(one["replaced"] for one in both) == alone["replaced"]  # kept over the restart
        positions = Counter(json.loads(line)["position"] for line in case[0].read_text().splitlines())
        assert len(positions) == alone["replaced"]
        assert set(positions.values()) == {1}
    # with a limit: the same end for both, and as soon as it is exceeded
    limited = [one[2] for one in told]
    for rank, one in enumerate(limited):
        assert one["error"].startswith(f"rank {rank}: rank 0 could not send "), one
        said = one["error"].partition("RuntimeError: ")[2]
        count, read = int(said.split()[0]), int(said.split()[2])
        assert count > max(LEAST_REPLACED, 0.05 * read)
        assert "samples are of records that could not be rendered, more than data.quarantine_limit=0.05: mend" in said
    assert limited[0]["batches"] == limited[1]["batches"] < BATCHES


def test_a_few_replaced_samples_are_never_too_many() -> None:
    from medclm.curriculum.decider import Decider

    decider = Decider(
        policy=make_policy(CurriculumSection(), domains=1, total_steps=1),
        describe=lambda _: None,  # type: ignore[arg-type,return-value]
        world_size=1,
        global_batch_size=2,
        micro_batch_size=1,
        total_steps=1,
        seed=0,
        quarantine_limit=0.01,
    )
    decider._limit(LEAST_REPLACED, 12)
    decider._limit(20, 2000)
    for replaced, read in ((LEAST_REPLACED + 1, 12), (21, 2000)):
        with pytest.raises(RuntimeError, match=rf"{replaced} of {read} samples"):
            decider._limit(replaced, read)


def test_the_knobs_are_checked() -> None:
    for value in ({"quarantine_limit": 0.0}, {"quarantine_limit": 1.5}, {"on_bad_record": "skip"}):
        with pytest.raises(ValueError, match=next(iter(value))):
            DataSection(**value)  # type: ignore[arg-type]
    assert replace(Report(0, torch.zeros(1), applied=True, stop_wanted=False), replaced=2).replaced == 2
