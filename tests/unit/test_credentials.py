"""Passwords and tokens in addresses: refused, and taken out of what others say."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from medclm.config import ConfigError, TrackingSection, load_recipe
from medclm.credentials import has_credentials, reason, redacted

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-Zq9"
WITH = [
    f"http://user:{SECRET}@tracking.example.org:5000",
    f"https://{SECRET}@tracking.example.org/mlflow",
    f"http://user:{SECRET}/with?signs#in@tracking.example.org",
    f"https://tracking.example.org/?access_token={SECRET}",
    f"postgresql://user:{SECRET}@127.0.0.1/mlflow",
    f"mysql+pymysql://user:{SECRET}@127.0.0.1/mlflow",
    f"postgresql://127.0.0.1/mlflow?user=a&password={SECRET}",
    f"user:{SECRET}@tracking.example.org:5000",
]
WITHOUT = [
    "",
    "off",
    "http://127.0.0.1:5000",
    "https://tracking.example.org/mlflow?workspace=token",
    "sqlite:////data/a:b@c/mlflow.db",
    "file:///data/a:b@c",
    "/data/a:b@c",
    "databricks",
    "databricks://profile",
    "postgresql://user@127.0.0.1/mlflow",
]


@pytest.mark.parametrize("uri", WITH)
def test_a_uri_with_a_password_is_refused_without_repeating_it(uri, tmp_path):
    assert has_credentials(uri)
    (tmp_path / "recipe.yaml").write_text(f"tracking:\n  uri: '{uri}'\n")
    for arguments, config in (([f"--tracking.uri={uri}"], None), ([], tmp_path / "recipe.yaml")):
        with pytest.raises(ConfigError, match=r"^tracking\.uri: .*MLFLOW_TRACKING_USERNAME.*MLFLOW_TRACKING_TOKEN") as caught:
            load_recipe(arguments, config=config)
        assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError) as direct:
        TrackingSection(uri=uri)
    assert SECRET not in str(direct.value)


@pytest.mark.parametrize("uri", WITHOUT)
def test_other_uris_are_taken(uri):
    assert not has_credentials(uri)
    assert TrackingSection(uri=uri).uri == uri


@pytest.mark.parametrize("uri", WITH[:-1])
def test_a_text_that_quotes_it_is_redacted(uri):
    text = f"API request to {uri}/api/2.0 failed with exception Max retries exceeded (Caused by ProxyError('{uri}'))"
    assert SECRET not in redacted(text)
    assert "API request to " in redacted(text)
    assert redacted("plain words, a@b.example, sqlite:////a/b.db") == "plain words, a@b.example, sqlite:////a/b.db"


def test_headers_and_known_passwords_are_redacted(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert redacted(f"wrong password {SECRET}") == "wrong password ***"
    assert redacted("{'Authorization': 'Basic dXNlcjpodW50ZXIy'}") == "{'Authorization': 'Basic ***'}"
    assert redacted("Bearer abcdefgh.ijkl-mn") == "Bearer ***"
    assert reason(RuntimeError(f"http://a:{SECRET}@host\nsecond line")) == "RuntimeError: http://***@host"
    assert reason(RuntimeError()) == "RuntimeError"


def test_the_commands_refuse_it_without_repeating_it(tmp_path):
    uri = WITH[0]
    for command in (
        ["train.py", "--deepspeed", "ds_configs/zero3.json", f"--tracking.uri={uri}", f"--run.output_dir={tmp_path}"],
        ["compare.py", "--experiment", "medclm", "--tracking-uri", uri],
        ["compare.py", "--sync", str(tmp_path), "--tracking-uri", uri],
    ):
        path = ROOT / "launch" / command[0]
        done = subprocess.run([sys.executable, str(path), *command[1:]], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 2
        assert "MLFLOW_TRACKING_USERNAME" in done.stderr
        assert SECRET not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
