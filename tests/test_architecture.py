"""The walls of the house: who may import whom, what is installed, what nobody writes."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("medclm", "train", "eval", "launch")

# Layers from the top; a module may import its own layer and those below.
LAYERS = (
    ("launch",),
    ("train", "eval"),
    (
        "medclm.engine",
        "medclm.memory",
        "medclm.device_memory",
        "medclm.distributed",
        "medclm.checkpoint",
        "medclm.checkpoint_writer",
        "medclm.exports",
        "medclm.tracking",
        "medclm.tracked_runs",
        "medclm.generation",
        "medclm.likelihood",
        "medclm.curriculum.service",
        "medclm.curriculum.log",
        "medclm.testing",
    ),
    ("medclm.data", "medclm.corpus", "medclm.models"),
    ("medclm.chat",),
    ("medclm.curriculum", "medclm.losses", "medclm.metrics", "medclm.data.order", "medclm.data.schema", "medclm.ds_config"),
    ("medclm.config", "medclm.types", "medclm.draws", "medclm"),
)
NO_TORCH = (
    "medclm.config",
    "medclm.ds_config",
    "medclm.curriculum.policies",
    "medclm.curriculum.policy",
    "medclm.curriculum.stages",
    "medclm.curriculum.averages",
    "medclm.curriculum.registry",
    "medclm.curriculum.course",
    "medclm.curriculum.simulation",
    "medclm.curriculum.pictures",
    "medclm.data.order",
    "medclm.data.schema",
)
ONLY_IN = {"deepspeed": ("medclm.engine", "medclm.checkpoint"), "mlflow": ("medclm.tracking",)}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path):
    """Every module that the file imports at run time, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def layer(name):
    """Index of the most specific layer entry that holds the module; None = outside the project."""
    found = [
        (len(entry), index)
        for index, entries in enumerate(LAYERS)
        for entry in entries
        if name == entry or name.startswith(entry + ".")
    ]
    return max(found)[1] if found else None


def test_imports_go_down_only():
    faults = []
    for name, path in modules():
        for target in imports(path):
            if target.split(".")[0] in PACKAGES and layer(target) < layer(name):
                faults.append(f"{name} -> {target}")
    assert not faults


def test_train_and_eval_do_not_know_each_other():
    for name, path in modules():
        top = {target.split(".")[0] for target in imports(path)}
        if name.startswith("eval"):
            assert "train" not in top, name
        if name.startswith("train"):
            assert "eval" not in top, name


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_lives_in_its_own_file(library):
    users = {name for name, path in modules() if any(target.split(".")[0] == library for target in imports(path))}
    assert users <= set(ONLY_IN[library])
    assert users


def test_policies_order_and_config_import_no_torch():
    code = f"import sys\nfor name in {NO_TORCH!r}: __import__(name)\nassert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_library_imports_without_starting_anything():
    code = "import sys, medclm.config, medclm.data.shards\nassert not {'mlflow', 'deepspeed', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_medclm_is_installed(tmp_path):
    source = tmp_path / "source"
    leave = shutil.ignore_patterns(".venv", ".git", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=leave)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    wheel = next(tmp_path.glob("medclm-*.whl"))
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"medclm"}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert packed == {str(path.relative_to(ROOT)) for _, path in modules() if path.is_relative_to(ROOT / "medclm")}


def test_launch_files_begin_with_the_path_line():
    files = sorted((ROOT / "launch").glob("*.py"))
    assert {path.stem for path in files} >= {"train", "corpus", "evaluate", "predict", "compare"}
    for path in files:
        text = path.read_text(encoding="utf-8")
        first_own = min(
            (text.index(f"from {package}") for package in ("train", "eval", "medclm") if f"\nfrom {package}" in text),
            default=None,
        )
        assert first_own is not None, path
        assert "sys.path[0] =" in text[:first_own], path
        assert re.search(r"#.*\n(#.*\n)*sys\.path\[0\] =", text), f"{path}: the path line has no comment"


def test_no_file_knows_a_models_numbers():
    """Outside medclm/models nobody knows 576 tokens, 336 pixels or an image token id."""
    for name, path in modules():
        if name.startswith(("medclm.models", "medclm.corpus")):
            continue
        numbers = {
            node.value
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and type(node.value) is int
        }
        assert not numbers & {576, 32000}, name


def test_deepspeed_files_are_json_and_own_no_learning():
    files = sorted((ROOT / "ds_configs").glob("*.json"))
    assert {path.stem for path in files} >= {"zero2", "zero3", "zero3_offload"}
    for path in files:
        tree = json.loads(path.read_text(encoding="utf-8"))
        assert not {"optimizer", "scheduler"} & set(tree), path


def test_nothing_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    words = ["/wor" + "k/", "pypi" + ".org", "files.python" + "hosted", "download.py" + "torch"]
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".lock", ".sh", ".sbatch", ".txt", ""}:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not [word for word in words if word in text], name
