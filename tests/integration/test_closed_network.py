"""The proof for closed networks: every command works where there is no network at all.

Each runs in a network namespace that has a loopback interface and nothing else, so that no packet can leave. What Python asks names
or addresses for is noted besides: nothing that we use may even try, telemetry of libraries included, though nothing is set that
would forbid it to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medclm.data.testing import write_small_corpus
from medclm.testing import TINY_FLAGS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
TINY = [
    *TINY_FLAGS,
    *("--train.global_batch_size=12", "--train.micro_batch_size=3"),
    *("--data.min_side=0", "--train.steps=2"),
]
QUIETING = {"DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"}
"""What the Makefile sets, and what a user may not have set."""

CLOSED = """
import fcntl, os, socket, struct, sys
with socket.socket() as any:  # a new namespace has its loopback interface down
    request = struct.pack("16sh14x", b"lo", 0)
    flags = struct.unpack("16xh14x", fcntl.ioctl(any, 0x8913, request))[0]
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "there is a network"
os.execvp(sys.argv[1], sys.argv[1:])
"""
LISTENER = """
import os, socket, sys
_HERE = {"localhost", socket.gethostname(), "", "0.0.0.0", "::", "::1", None}
def _listen(event, arguments):
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in _HERE and not host.startswith("127."):
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{sys.argv[:2]} {event} {host}\\n")
sys.addaudithook(_listen)
"""


def namespace() -> list[str]:
    """The command that starts another one without a network; skips where that is not permitted."""
    unshare = shutil.which("unshare")
    for flags in ("-n", "-rn"):
        if unshare and subprocess.run([unshare, flags, "true"], capture_output=True, check=False).returncode == 0:
            return [unshare, flags]
    pytest.skip("needs `unshare -n` or `unshare -rn` (user namespaces), which this machine does not permit")


class Closed:
    """Runs the project's commands without a network, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._namespace = folder, namespace()
        self.heard = folder / "heard.txt"
        listener = folder / "listener"
        listener.mkdir()
        (listener / "sitecustomize.py").write_text(LISTENER)
        own = str(Path(sys.executable).parent)  # the deepspeed launcher starts the python that it finds first
        self._environment = {name: value for name, value in os.environ.items() if name not in QUIETING} | {
            "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(listener),
            "HEARD": str(self.heard),
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder),
            "MEDCLM_ID_KEY": "0123456789abcdef",
        }

    def __call__(self, *command: object, codes: tuple[int, ...] = (0,)) -> str:
        """What the command prints."""
        words = [*self._namespace, sys.executable, "-c", CLOSED, *map(str, command)]
        done = subprocess.run(
            words, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False, timeout=400
        )
        assert done.returncode in codes, f"{words}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Closed:
    return Closed(tmp_path_factory.mktemp("closed"))


def test_the_namespace_is_closed_and_the_listener_hears(closed: Closed) -> None:
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=5)\nexcept OSError as error: print(error)"
    assert "unreachable" in closed("python", "-c", code)
    assert "192.0.2.1" in closed.heard.read_text()
    closed.heard.unlink()


def test_corpus_training_evaluation_prediction_and_comparison_need_no_network(closed: Closed, tmp_path: Path) -> None:
    corpus = write_small_corpus(tmp_path / "small", images=24)
    launch, out = ROOT / "launch", tmp_path / "runs"
    closed("python", launch / "corpus.py", "phantoms", "--count", 4, "--size", 64, "--out", tmp_path / "phantoms")
    closed("python", launch / "corpus.py", "inspect", tmp_path / "phantoms", "--html", tmp_path / "inspect.html")
    training = ("--deepspeed", ROOT / "ds_configs" / "zero3.json", f"--data.corpus={corpus}", f"--run.output_dir={out}", *TINY)
    closed("deepspeed", "--num_accelerators", 2, launch / "train.py", *training)
    run = out / "demo"
    judged = ("--checkpoint", run, "--data", corpus, "--split", "train", "--limit", 4, "--max-new-tokens", 8, "--runs", out)
    closed("python", launch / "evaluate.py", *judged, "--suites", "vqa,grounding", "--out", run / "eval")
    film = tmp_path / "film.png"
    _save_picture(film)
    asked = ("--checkpoint", run, "--image", film, "--question", "What is the finding?", "--max-new-tokens", 8)
    closed("python", launch / "predict.py", *asked, "--out", tmp_path / "overlay.png", codes=(0, 3))  # 3 = it had no answer
    said = closed("python", launch / "compare.py", "--experiment", "medclm", "--runs", out)
    assert "demo" in said
    scores = json.loads(next((run / "eval").glob("vqa-train/results.json")).read_text())["scores"]
    assert scores
    assert (run / "export" / "config.json").is_file()
    assert not closed.heard.exists(), closed.heard.read_text()


def _save_picture(path: Path) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(path)
