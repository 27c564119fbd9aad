"""Evaluation on real processes: several ranks ask, rank 0 judges, and nothing of the result tells how many there were."""

import json
from pathlib import Path

from eval.decoding import Decoding
from eval.runner import Plan, evaluate_checkpoint
from medclm.data.testing import record_row, write_small_corpus
from medclm.distributed import Ranks
from medclm.testing import tiny_export
from tests.ranks import run_ranks

PLAN = Plan(suites=("vqa", "grounding"))


def judge(
    rank: int, export: str, corpus: str, out: str, limit: int | None, world_size: int, timeout_s: float = 60
) -> list[str]:
    plan = Plan(suites=PLAN.suites, limit=limit)
    ranks = Ranks(rank, rank, world_size)
    results = evaluate_checkpoint(
        Path(export), Path(corpus), Path(out), plan, Decoding(max_new_tokens=6, batch_size=1), ranks=ranks, timeout_s=timeout_s
    )
    return sorted(results)


def predictions(out: Path) -> dict[str, str]:
    return {suite: (out / f"{suite}-test" / "predictions.jsonl").read_text() for suite in PLAN.suites}


def test_any_number_of_ranks_gives_the_same_predictions_and_goes_on_from_any_other(tmp_path):
    split = ["test" if i % 2 else "train" for i in range(14)]
    rows = [record_row(i, images=14, split=split[i]) for i in range(14)]
    corpus = str(write_small_corpus(tmp_path / "corpus", 14, records=rows))
    export = str(tiny_export(tmp_path / "export"))
    alone, together = tmp_path / "alone", tmp_path / "together"
    judge(0, export, corpus, str(alone), None, 1)
    assert run_ranks(2, judge, export, corpus, str(together), 3, 2) == [["grounding", "vqa"], []]
    kept = {path.name: path.read_text() for path in (together / "replies-test").glob("rank*.jsonl")}
    assert set(kept) == {"rank0.jsonl", "rank1.jsonl"}
    judge(0, export, corpus, str(together), None, 1)  # one rank goes on with what two have asked
    assert predictions(together) == predictions(alone)
    ids = [json.loads(line)["id"] for path in (together / "replies-test").glob("rank*.jsonl") for line in path.open()]
    assert len(ids) == len(set(ids)) == 7
    assert all((together / "replies-test" / name).read_text().startswith(text) for name, text in kept.items())


def lost(rank: int, export: str, corpus: str, out: str) -> str:
    if rank == 1:
        raise SystemExit("gone")
    try:
        judge(rank, export, corpus, out, None, 2, timeout_s=5)
    except RuntimeError as error:
        return str(error)
    return "finished"


def test_a_rank_that_ends_ends_the_others_with_its_name(tmp_path):
    corpus = str(write_small_corpus(tmp_path / "corpus", 4, records=[record_row(i, images=4, split="test") for i in range(4)]))
    export = str(tiny_export(tmp_path / "export"))
    said, _ = run_ranks(2, lost, export, corpus, str(tmp_path / "out"))
    assert "rank 0: no answer within 5 s while waiting for all ranks to join" in said
