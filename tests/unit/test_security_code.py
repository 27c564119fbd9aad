"""What our code never does with what it did not write itself: run it.

Pickles, `eval`, shells, archives unpacked as they are, models that bring code or weights as pickles. Names are looked for in the
syntax tree, so that a comment may speak of them.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medclm.models.vip_llava import VipLlavaFamily
from medclm.testing import tiny_export
from tests.language_models import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("medclm", "train", "eval", "launch", "benchmarks")

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "skops"}
UNSAFE_XML = ("xml.etree", "xml.dom", "xml.sax", "lxml", "xmlrpc")
XML_TYPES = {"Element", "ParseError"}
"""What of the unsafe parser is no parser."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {"read_pickle", "unsafe_load", "full_load", "load_all", "unpack_archive", "extractall", "system", "popen"}
WEIGHTS = "from_pretrained"
TEXT_ONLY = ("Processor", "Tokenizer", "Config")
"""Classes whose folders hold no weights."""
MEANT = {
    (
        "medclm/engine.py",
        "torch.load() without weights_only=True",
    ): "DeepSpeed's state, whose manifest was verified (SECURITY.md)",
    ("medclm/data/shards.py", "Image.open() of any format"): "pictures of a corpus, that of its maker",
    ("benchmarks/near_duplicates.py", "Image.open() of any format"): "what the line before encoded",
    ("benchmarks/host_organs.py", "Image.open() of any format"): "the benchmark's own data",
    ("benchmarks/faults/attempts.py", "pickle"): "a case, for the rank of the drill that the next lines start",
    ("benchmarks/faults/rank.py", "pickle"): "as above",
}
"""What may stand in the code, and why."""


def faults(tree: ast.AST) -> Iterator[str]:
    """What stands in the code and may not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _forbidden(alias.name))
        elif isinstance(node, ast.ImportFrom):
            if _forbidden(node.module or "") and not {alias.name for alias in node.names} <= XML_TYPES:
                yield node.module or ""
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _forbidden(module: str) -> bool:
    return module.split(".")[0] in MODULES or module.startswith(UNSAFE_XML)


def _call(node: ast.Call) -> Iterator[str]:
    given = {one.arg: ast.unparse(one.value) for one in node.keywords}
    if isinstance(node.func, ast.Name) and node.func.id in BUILT_IN:
        yield f"{node.func.id}()"
    if given.get("shell", "False") != "False":
        yield "shell=True"
    if given.get("trust_remote_code", "False") != "False":
        yield "trust_remote_code"
    if not isinstance(node.func, ast.Attribute):
        return
    owner, name = ast.unparse(node.func.value), node.func.attr
    if (owner, name) == ("Image", "open") and "formats" not in given:
        yield "Image.open() of any format"  # EPS starts Ghostscript
    if name in ATTRIBUTES:
        yield f"{owner}.{name}()"
    if name == "load" and owner == "torch" and given.get("weights_only") != "True":
        yield "torch.load() without weights_only=True"
    if name == "load" and given.get("allow_pickle", "False") != "False":
        yield "allow_pickle"
    if name == "load" and owner == "yaml" and given.get("Loader") not in ("yaml.BaseLoader", "yaml.SafeLoader"):
        yield "yaml.load() of objects"
    if name == WEIGHTS:
        if given.get("trust_remote_code") != "False" and owner != "PeftModel":
            yield f"{owner}.{name}() without trust_remote_code=False"
        if not owner.endswith(TEXT_ONLY) and given.get("use_safetensors") != "True":
            yield f"{owner}.{name}() without use_safetensors=True"


def test_no_code_runs_what_it_reads() -> None:
    found = {
        (str(path.relative_to(ROOT)), fault)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for fault in faults(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found - MEANT.keys()


@pytest.mark.parametrize(
    "code",
    [
        *("import pickle", "from joblib import load", "import lxml.etree", "from xml.etree.ElementTree import parse"),
        *("torch.load('a')", "torch.load('a', weights_only=False)", "np.load('a', allow_pickle=True)", "pd.read_pickle('a')"),
        *("yaml.load(a)", "yaml.load(a, Loader=yaml.Loader)", "yaml.unsafe_load(a)", "eval('1')", "exec(a)", "__import__(a)"),
        *("os.system(a)", "subprocess.run(a, shell=True)", "archive.extractall()", "shutil.unpack_archive(a)"),
        "Image.open(a)",
        "AutoModel.from_pretrained(a, trust_remote_code=False)",
        "AutoModel.from_pretrained(a, use_safetensors=True)",
        "AutoTokenizer.from_pretrained(a)",
        "AutoTokenizer.from_pretrained(a, trust_remote_code=True)",
        "PeftModel.from_pretrained(a, b)",
    ],
)
def test_the_search_finds(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_the_search_lets_the_safe_forms_be() -> None:
    safe = (
        "import json\nfrom xml.etree.ElementTree import Element\nmodel.eval()\nre.compile(a)\nyaml.safe_load(a)\n"
        "yaml.load(a, Loader=yaml.BaseLoader)\ntorch.load(a, weights_only=True)\nsubprocess.run([a])\nImage.open(a, formats=('PNG',))\n"
        "AutoModel.from_pretrained(a, trust_remote_code=False, use_safetensors=True)\n"
        "AutoTokenizer.from_pretrained(a, trust_remote_code=False)\nPeftModel.from_pretrained(a, b, use_safetensors=True)"
    )
    assert list(faults(ast.parse(safe))) == []


class _Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, left: Path) -> None:
        self.left = left

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.left,)


def pickled(folder: Path, name: str, left: Path) -> None:
    """Takes the weights of a model folder away and lays a trap under the name of pickled ones."""
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({"weight": _Trap(left)}, folder / name)


def test_pickled_weights_are_refused_and_not_loaded(tmp_path: Path) -> None:
    whole = tiny_export(tmp_path / "whole")
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    pickled(broken, "pytorch_model.bin", tmp_path / "left")
    with pytest.raises(ValueError, match="safetensors"):
        VipLlavaFamily().load_export(broken, torch.float32)
    adapters = Path(shutil.copytree(whole, tmp_path / "adapters"))
    pickled(adapters, "adapter_model.bin", tmp_path / "left")
    (adapters / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{whole}", "peft_type": "LORA"}}')
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        VipLlavaFamily().load_export(adapters, torch.float32)
    assert not (tmp_path / "left").exists()


def test_a_writer_runs_neither_pickles_nor_a_models_own_code(tmp_path: Path) -> None:
    from medclm.corpus.writers.local_writer import _Engine

    whole = make_tiny_model(tmp_path / "whole")
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    pickled(broken, "pytorch_model.bin", tmp_path / "left")
    with pytest.raises(ValueError, match="with safetensors"):
        _Engine(str(broken), "cpu")
    coded = Path(shutil.copytree(whole, tmp_path / "coded"))
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "planted", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "own.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'left')!r}).touch()\nclass Own: pass\n")
    with pytest.raises(ValueError, match="cannot load it"):
        _Engine(str(coded), "cpu")
    assert not (tmp_path / "left").exists()
