"""A whole run over a corpus with records that cannot be rendered: its end, or stand-ins that any number of ranks agree on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medclm.checkpoint import newest
from medclm.curriculum.log import read_log
from medclm.data.manifest import sha256_file
from medclm.data.quarantine import QUARANTINE
from medclm.data.shards import Corpus
from medclm.data.testing import write_small_corpus
from medclm.testing import TINY_FLAGS
from tests.ranks import run_ranks
from train.main import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    f"--deepspeed={ROOT / 'ds_configs' / 'zero3.json'}",
    *TINY_FLAGS,
    "--train.global_batch_size=12",
    "--train.micro_batch_size=3",
    "--train.log_every=1",
    "--train.export=false",
    "--data.min_side=0",
    "--data.verify=false",
    "--tracking.uri=off",
]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images, two of them undecodable, as a copy over a bad wire leaves them."""
    folder = write_small_corpus(tmp_path_factory.mktemp("corpus") / "small", images=60)
    for image in (4, 25):
        corpus = Corpus(folder)
        path, stored = folder / corpus.file_of("images", image), corpus.image_bytes(image)
        path.write_bytes(path.read_bytes().replace(stored, stored.replace(b"IHDR", b"IHXR")))
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:  # damaged before it was listed: no hash shows it
        entry["sha256"] = sha256_file(folder / entry["path"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def start(rank: int, arguments: list[str]) -> int:
    return main(arguments)


def listed(run: Path) -> dict[int, tuple[str, str]]:
    lines = [json.loads(line) for line in (run / QUARANTINE).read_text().splitlines()]
    assert len({line["position"] for line in lines}) == len(lines)
    return {line["position"]: (line["record"], line["replacement"]) for line in lines}


def test_quarantine_gives_one_and_two_ranks_the_same_run(damaged: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, f"--data.corpus={damaged}", "--train.steps=8"]
    flags += ["--data.on_bad_record=quarantine", "--data.quarantine_limit=0.5"]
    for ranks in (1, 2):
        here = [*flags, f"--run.output_dir={tmp_path}", f"--run.name=ranks-{ranks}", f"--data.cache={tmp_path / 'disk'}"]
        assert run_ranks(ranks, start, here, timeout_s=240) == [0] * ranks
    alone, together = tmp_path / "ranks-1", tmp_path / "ranks-2"
    assert listed(alone) == listed(together) != {}
    assert (read_log(alone).rows["stages"] == read_log(together).rows["stages"]).all()
    for run in (alone, together):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        told = [line["data/replaced"] for line in lines if "data/replaced" in line]
        assert told == sorted(told)
        assert 0 < told[-1] <= len(listed(run))  # the last batches' reports come with the last save
        found = newest(run / "checkpoints")
        assert found is not None
        assert found.run_state["curriculum"]["replaced"] == len(listed(run))
    assert len(list((tmp_path / "disk").glob("*/images-*.arrow"))) == len(list(damaged.glob("images-*.arrow")))


def test_raise_and_a_small_limit_end_the_run_with_a_message(
    damaged: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*FLAGS, "--train.steps=60", f"--data.corpus={damaged}", f"--run.output_dir={tmp_path}"]
    (code,) = run_ranks(1, start, [*flags, "--run.name=raise"], timeout_s=240)
    said = f"{code} {capfd.readouterr().err}"
    assert code != 0
    assert re.search(r"record r\d{5}: \S+images-\d{5}\.arrow: images row (4|25) does not decode .*: copy or build", said), said
    flags += ["--data.on_bad_record=quarantine", "--data.quarantine_limit=0.001", "--run.name=limit"]
    (code,) = run_ranks(1, start, flags, timeout_s=240)
    said = f"{code} {capfd.readouterr().err}"
    assert re.search(r"11 of \d+ samples are of records .* more than data\.quarantine_limit=0\.001: mend the corpus", said), (
        said
    )
