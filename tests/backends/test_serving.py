"""The serving samples behind the real servers: KServe's, and Triton's as the wheel of nvidia-pytriton carries it."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import numpy as np
import onnxruntime
import pytest

from modelvault import samples
from modelvault.audit import verify_log
from modelvault.cli.main import main
from modelvault.keys import store

FOLDER = Path(samples.__file__).parent
IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, 3, 48, 192)).astype(np.float32)


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for command in (
        *(["keygen", role, "--no-passphrase"] for role in ("publisher", "recipient", "host")),
        ["seal", str(samples.MODEL), "-o", "direction.mvlt", "--name", "direction"],
    ):
        with pytest.raises(SystemExit, match="0"):
            main(command)
    return tmp_path / "direction.mvlt"


def ask(url: str, value: Any = None) -> tuple[int, Any]:
    """Status and answer; status 0 where nobody answers yet."""
    data = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, None


@contextlib.contextmanager
def running(command: list[str], ready: str, log: Path, **environment: str) -> Iterator[None]:
    """The server, once the address ``ready`` answers well; it is asked to stop at the end, and has to."""
    settings: dict[str, Any] = {"env": {**os.environ, **environment}, "stderr": subprocess.STDOUT}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, **settings) as process:
        try:
            for _ in range(600):
                if ask(ready)[0] == 200 or process.poll() is not None:
                    break
                time.sleep(0.1)
            assert process.poll() is None, log.read_text()
            yield
            process.terminate()
            process.wait(60)
        finally:
            process.kill()


def infers(address: str, name: str) -> None:
    """The open inference protocol's answers are those of the plain model; what does not fit is refused."""
    (output,) = onnxruntime.InferenceSession(samples.MODEL).run(None, {"x": IMAGE})

    def infer(array: Any) -> tuple[int, Any]:
        tensor = {"name": "x", "shape": array.shape, "datatype": "FP32", "data": array.ravel().tolist()}
        return ask(f"{address}/v2/models/{name}/infer", {"inputs": [tensor]})

    status, answer = infer(IMAGE)
    assert status == 200, answer
    np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (2, 2)), np.asarray(output), rtol=1e-5)
    status, words = infer(IMAGE.ravel())
    assert status >= 400
    assert "x" in words


def events() -> list[str]:
    records: list[Any] = []
    verify_log(Path(os.environ["MODELVAULT_HOME"]) / "audit/audit.log", store.load_host_public("default"),
               visit=records.append)  # fmt: skip
    return [record.event for record in records]


def test_kserve(sealed: Path, tmp_path: Path) -> None:
    needs.module("kserve")
    port = needs.free_port()
    command = [sys.executable, str(FOLDER / "kserve_direction.py"), "--http_port", str(port), "--enable_grpc", "false"]
    address = f"http://127.0.0.1:{port}"
    with running(command, f"{address}/v2/models/direction/ready", tmp_path / "log"):
        infers(address, "direction")
    assert events() == ["opened", "load.intent", "load.done", "session.closed"]


def triton(repository: Path, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Triton's command, and its environment: the server with the stub for this Python, as pytriton would place it."""
    needs.module("pytriton")
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    home = Path(str(spec.origin)).parent / "tritonserver"
    version, libraries = f"{sys.version_info[0]}.{sys.version_info[1]}", sysconfig.get_config_var("LIBDIR")
    name = f"libpython{version}.so.1.0"
    needs.file(f"{libraries}/{name}", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/{name}")
    backend = folder / "backends/python"
    shutil.copytree(home / "backends/python", backend)
    shutil.copy(home / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    (backend / "triton_python_backend_stub").chmod(0o755)
    server = folder / "tritonserver"
    shutil.copy(home / "bin/tritonserver", server)
    server.chmod(0o755)
    command = [str(server), f"--model-repository={repository}", f"--backend-directory={folder / 'backends'}"]
    command += ["--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    return command, {
        "LD_LIBRARY_PATH": f"{home.parent.parent / 'nvidia_pytriton.libs'}:{libraries}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def test_triton(sealed: Path, tmp_path: Path) -> None:
    repository, port = tmp_path / "repository", needs.free_port()
    shutil.copytree(FOLDER / "triton", repository)
    shutil.copy(sealed, repository / "direction/1")
    command, environment = triton(repository, tmp_path, port)
    address = f"http://127.0.0.1:{port}"
    with running(command, f"{address}/v2/models/direction/ready", tmp_path / "log", **environment):
        infers(address, "direction")
    assert events() == ["opened", "load.intent", "load.done", "session.closed"]

    damaged = sealed.read_bytes()
    (repository / "direction/1/direction.mvlt").write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    command += ["--exit-on-error=false"]
    with running(command, f"{address}/v2/health/live", tmp_path / "log", **environment):
        assert ask(f"{address}/v2/models/direction/ready")[0] != 200
    assert "PayloadTampered" in (tmp_path / "log").read_text()
    assert events()[-1] == "load.denied"
