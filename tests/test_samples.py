"""The sample scripts, run as a user would: seal, serve, audit."""

import contextlib
import json
import runpy
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelvault import samples
from modelvault.cli.main import main

FOLDER = Path(samples.__file__).parent


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for role in ("publisher", "recipient", "host"):
        with pytest.raises(SystemExit, match="0"):
            main(["keygen", role, "--no-passphrase"])
    return tmp_path


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / name))


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The service as a process of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "--app-dir",
            str(FOLDER),
            "--fd",
            str(listener.fileno()),
            "serve:app",
        ]
        with subprocess.Popen(command, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True) as process:
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.communicate(timeout=30)


def post(url: str, value: Any) -> tuple[int, Any]:
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, json.dumps(value).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_seal_serve_audit(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("seal.py")["main"]()
    assert "45 tensors" in capsys.readouterr().out
    image = np.random.default_rng(0).uniform(-1, 1, (3, 48, 192)).round(3)
    with served() as url:
        status, answer = post(f"{url}/predict", image.tolist())
        assert (status, answer["degrees"] in (0, 180)) == (200, True)
        assert post(f"{url}/predict", [[[0.0]]])[0] == 422
    assert script("audit.py")["main"]() == 0
    assert "4 records, none changed" in capsys.readouterr().out
    sealed = bytearray(Path("direction.mvlt").read_bytes())
    sealed[-1] ^= 1
    Path("direction.mvlt").write_bytes(sealed)
    assert script("audit.py")["main"]() == 1
    assert "REFUSED" in capsys.readouterr().out


def test_the_model_is_what_its_readme_says() -> None:
    assert samples.MODEL.stat().st_size < 1_500_000
    assert "Apache License 2.0" in (FOLDER / "README.md").read_text()
