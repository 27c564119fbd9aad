"""Keys and passwords of the environment: used where they are meant, and found in nothing that is written or printed.

A corpus is built with a language model, a run is trained and judged, a server is asked, and servers are asked that turn the key
away and repeat it, all with planted secrets. Then every file and every output is searched for them, as they are and encoded.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medclm.data.testing import write_small_corpus
from medclm.testing import TINY_FLAGS
from tests.misbehaving_server import Server
from tests.source_files import coco, lesion, picture

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
SECRETS = {
    name: f"planted-{name.lower().replace('_', '-')}-6f1c9e27"
    for name in (
        *("OPENAI_API_KEY", "WRITER_KEY", "MEDCLM_ID_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN"),
        *("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME"),
    )
}
FLAG = "planted-in-a-flag-6f1c9e27"
TINY = [
    *TINY_FLAGS,
    *("--train.global_batch_size=12", "--train.micro_batch_size=3"),
    *("--data.min_side=0", "--train.steps=2"),
]


class _Repeating(BaseHTTPRequestHandler):
    """Refuses whoever asks, and says what they brought."""

    def log_message(self, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        told = json.dumps({"error": {"message": f"wrong key: {self.headers['authorization']}", "code": "invalid"}}).encode()
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)


class Commands:
    """Runs the project's commands with the secrets in their environment, and keeps what they print."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.printed = folder, folder / "printed"
        self.printed.mkdir()
        self._environment = {**os.environ, **SECRETS, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HOME": str(folder)}

    def __call__(self, script: str, *arguments: object, code: int | None = 0) -> str:
        command = [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False, timeout=400
        )
        said = done.stdout + done.stderr
        (self.printed / f"{len(list(self.printed.iterdir()))}.txt").write_text(said, encoding="utf-8")
        assert code is None or done.returncode == code, said
        return said


@pytest.fixture
def repeating() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Repeating)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def forms_of(secret: str) -> list[bytes]:
    """A secret as it is, as in an address, and in base64 at each of the three places that it may begin."""
    encoded = [base64.b64encode(b"x" * lead + secret.encode())[4 if lead else 0 : -4] for lead in range(3)]
    return [secret.encode(), urllib.parse.quote(secret, safe="").encode(), *encoded]


def found_below(folder: Path) -> list[str]:
    """file: secret, for every file that holds one."""
    wanted = {name: forms_of(secret) for name, secret in {**SECRETS, "a flag": FLAG}.items()}
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes() + str(path.relative_to(folder)).encode()
        found += [f"{path}: {name}" for name, forms in wanted.items() if any(form in content for form in forms)]
    return found


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    secret = SECRETS["OPENAI_API_KEY"]
    for name, content in {"a": secret, "b": base64.b64encode(f"user:{secret}".encode()).decode()}.items():
        (tmp_path / name).write_text(content)
    assert len(found_below(tmp_path)) == 2


def test_no_secret_is_written_or_printed(tmp_path: Path, repeating: str) -> None:
    run = Commands(tmp_path)
    data = tmp_path / "data"
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64, "patient": f"p{n}"} for n in range(6)]
    for image in images:
        picture(data / "images" / image["file_name"], 64, 64)
    coco(data, [lesion((8 + n, 9, 20, 21), id=n, image_id=n) for n in range(6)], images)
    built = (
        *("build", "--source", "coco", "--annotations", data / "boxes.json", "--image-root", data / "images", "--name", "made"),
        *("--patient-field", "patient", "--modality", "DX", "--plane", "frontal", "--orientation", "L\\F", "--workers", 1),
        *("--writer", "openai", "--model", "any", "--api-key-variable", "WRITER_KEY"),
    )
    server = Server()
    server.patient = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run("corpus.py", *built, "--base-url", server.url, "--out", tmp_path / "written", code=None)
    assert server.keys == {f"Bearer {SECRETS['WRITER_KEY']}"}  # it was used
    server.shutdown()
    server.server_close()
    for status in (401, 404, 400, 500):
        refused = ("--base-url", f"{repeating}/{status}/v1", "--out", tmp_path / f"refused-{status}")
        run("corpus.py", *built, *refused, code=None)

    corpus = write_small_corpus(tmp_path / "small", images=24)
    out = tmp_path / "runs"
    zero3 = ROOT / "ds_configs" / "zero3.json"
    run("train.py", "--deepspeed", zero3, f"--data.corpus={corpus}", f"--run.output_dir={out}", *TINY)
    judged = ("--data", corpus, "--suites", "vqa", "--split", "train", "--limit", 4, "--max-new-tokens", 8, "--runs", out)
    run("evaluate.py", "--checkpoint", out / "demo", *judged, "--out", out / "demo" / "eval")
    for status in (401, 500):
        address = ("--base-url", f"{repeating}/{status}/v1", "--model", "any")
        said = run("evaluate.py", *address, *judged, "--out", tmp_path / f"asked-{status}", code=None)
    with_password = f"http://user:{FLAG}@127.0.0.1:9/v1"
    said = run("evaluate.py", "--base-url", with_password, "--model", "any", *judged, "--out", tmp_path / "x", code=None)
    assert "user name or password" in said
    said = run(
        "evaluate.py",
        *("--base-url", "http://127.0.0.1:9/v1", "--model", "any", "--api-key-variable", FLAG, *judged),
        *("--out", tmp_path / "x"),
        code=None,
    )
    assert "give the name of an environment variable" in said
    run("compare.py", "--experiment", "medclm", "--runs", out)
    assert (out / "demo" / "checkpoints").is_dir()
    assert not found_below(tmp_path)
