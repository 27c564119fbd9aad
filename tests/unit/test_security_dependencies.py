"""What is installed is what is locked, what is imported is declared, and what is declared has a reason. Asks nobody."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("medclm", "train", "eval", "launch")
OURS = {*SHIPPED, "tests", "benchmarks"}
INSTALLERS = {"pip", "setuptools", "wheel"}
WITH_ANOTHER = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "SimpleITK": "simpleitk",
    "streaming": "mosaicml-streaming",
    "torchvision": "mosaicml-streaming",  # which asks for it
}
"""Modules whose distribution has another name."""


def plain(name: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, set[str]]:
    """Extra of setup.py ("" = always) -> names."""
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setup"
    )
    given: dict[str, Any] = {one.arg: one.value for one in call.keywords if one.arg}
    extras: dict[str, list[str]] = {
        "": ast.literal_eval(given["install_requires"]),
        **ast.literal_eval(given["extras_require"]),
    }
    return {extra: {plain(re.split(r"[<>=!~\[; ]", one)[0]) for one in each} for extra, each in extras.items()}


def locked(file: str = "requirements.lock") -> dict[str, str]:
    """Name -> version of a file of pinned packages."""
    found = {}
    for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
            assert match, f"{file}:{number}: {line!r}: pin one version with ==, without a build suffix"
            assert plain(match[1]) not in found, f"{file}:{number}: {match[1]} stands twice"
            found[plain(match[1])] = match[2]
    return found


def imported(folder: str) -> Iterator[tuple[str, str]]:
    """(top module, file) of every import of another's module that the code of a folder has."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                if top not in OURS | set(sys.stdlib_module_names):
                    yield top, str(path.relative_to(ROOT))


def test_every_locked_package_is_pinned_and_every_declared_one_is_locked() -> None:
    missing = set().union(*declared().values()) - set(locked()) - {"flash-attn"}  # no wheel: README, "On GPUs"
    assert not missing, f"in setup.py, not in requirements.lock: {sorted(missing)}"


def test_the_environment_is_the_locked_one() -> None:
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("needs the project's own .venv: this is another environment, and its versions are its user's business")
    installed = {
        plain(one.metadata["Name"]): one.version.split("+")[0]  # a build suffix is the machine's
        for one in importlib.metadata.distributions()
        if plain(one.metadata["Name"]) not in {*INSTALLERS, "medclm"}
    }
    differing = {
        name: (locked().get(name), installed.get(name))
        for name in sorted({*installed, *locked()})
        if installed.get(name) != locked().get(name)
    }
    assert not differing, f"name: (locked, installed) {differing}: rm -r .venv, or write the lock anew (CONTRIBUTING.md)"


def test_nothing_that_is_installed_misses_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", sorted(OURS))
def test_every_import_is_declared(folder: str) -> None:
    known = declared()
    allowed = known[""] | known["eval"] | known["gpu"] if folder in SHIPPED else set().union(*known.values())
    if folder == "benchmarks":  # what it compares with, which nothing else needs
        allowed |= set(locked("benchmarks/requirements.txt"))
    homes = importlib.metadata.packages_distributions()
    strays = {
        f"{where}: {top}"
        for top, where in imported(folder)
        if not {plain(name) for name in homes.get(top, [WITH_ANOTHER.get(top, top)])} & allowed
    }
    assert not strays, f"imported and not in setup.py: {sorted(strays)}"


def test_every_dependency_has_its_reason() -> None:
    rows = re.findall(r"(?m)^\| ([^|]+) \| [^|]+ \|$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    named = {plain(name) for row in rows for name in re.split(r",\s*|\s*\(`\w+`\)\s*", row) if name.strip()}
    wanted = {"type stubs" if name.startswith("types-") else name for name in set().union(*declared().values())}
    assert not wanted - named, f"in setup.py without a row in CONTRIBUTING.md: {sorted(wanted - named)}"
    assert not named - wanted - {"package", "---"}, f"in CONTRIBUTING.md, not in setup.py: {sorted(named - wanted)}"
