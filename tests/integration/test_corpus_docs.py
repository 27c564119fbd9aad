"""Every build command of docs/corpus.md, run as it stands there on the real sets, and each corpus read by an independent checker."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medclm.data.shards import Corpus

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CHECKS = ROOT.parent / "shared" / "checks" / "recheck_corpus.py"
WITHOUT_PICTURES = ("chestx_det", "nih")


def commands() -> dict[str, str]:
    """Corpus name -> command, for each indented build command of the page that can be run as it stands."""
    text = (ROOT / "docs" / "corpus.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    python launch/corpus.py build")]
    return {re.search(r"--out runs/corpora/(\w+)", line)[1]: line for line in lines}  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"needs the real sets in {DATA.name}")
@pytest.mark.parametrize("name", sorted(commands()))
def test_a_command_of_the_page_does_what_it_says(name: str, tmp_path: Path) -> None:
    line = commands()[name].replace("$DATA", str(DATA)).replace("runs/corpora", str(tmp_path))
    words = shlex.split(line)
    environment = {**os.environ, "MEDCLM_ID_KEY": "a key of this test alone"}
    done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if name in WITHOUT_PICTURES:
        assert done.returncode == 3
        assert re.search(r"^ +(3025|880)  image_missing", done.stderr, re.M), done.stderr
        assert not (tmp_path / name).exists()
        return
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name / "report.html").stat().st_size > 10_000
    corpus = Corpus(tmp_path / name)
    facts = [
        (lesion_class, json.loads(stored))
        for batch in corpus.scan("annotations", ["lesion_class", "facts"])
        for lesion_class, stored in zip(*batch.to_pydict().values(), strict=True)
    ]
    if name == "covid_cxr":  # medicine: the side of every lung box, by the orientation and by its name
        assert len(facts) == 300
        assert all(known["side"] == lesion_class.split()[0] for lesion_class, known in facts)
    if name == "brats":
        assert not any("side" in known for _, known in facts)
    if CHECKS.exists():
        read = subprocess.run([sys.executable, str(CHECKS), str(tmp_path / name)], capture_output=True, text=True, check=False)
        assert read.stdout.rstrip().endswith(" 0 failed"), read.stdout


def test_the_page_names_every_real_set_with_images() -> None:
    assert set(commands()) == {"covid_cxr", "brats", "bccd", "totalseg_ct", "totalseg_mr", "dicom", *WITHOUT_PICTURES}
