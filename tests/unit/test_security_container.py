"""The container's recipe: what it copies is there, what it runs is shell, and it needs no network but for its base image."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "launch" / "medclm.def"


def section(name: str) -> str:
    text = RECIPE.read_text(encoding="utf-8")
    found = re.search(rf"(?ms)^%{name}\n(.*?)(?=^%|\Z)", text)
    assert found, f"no %{name}"
    return found[1]


def test_what_is_copied_is_in_the_repository() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sources = {line.split()[0]: line.split()[1] for line in section("files").splitlines() if line.strip()}
    assert sources.pop("wheelhouse") == "/opt/wheelhouse"
    for source, target in sources.items():
        assert any(name == source or name.startswith(f"{source}/") for name in tracked), source
        assert target == f"/opt/medclm/{source}"
    assert {"medclm", "train", "eval", "launch", "ds_configs", "requirements.lock"} <= sources.keys()


@pytest.mark.parametrize("name", ["post", "environment", "test", "runscript"])
def test_the_scripts_are_shell(name: str) -> None:
    subprocess.run(["sh", "-n"], input=section(name), text=True, check=True)


def test_the_set_up_asks_nobody() -> None:
    post = section("post")
    assert "PIP_NO_INDEX=1" in post
    assert not re.search(r"apt|curl|wget|https?:", post)
    assert {"HF_HUB_OFFLINE=1", "DO_NOT_TRACK=1", "MLFLOW_DISABLE_TELEMETRY=true"} <= set(section("environment").split())
