"""What the tests of key backends need of the machine: a real program, or a skip that names it."""

import contextlib
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _missing(what: str) -> None:
    """Skip, unless MODELVAULT_REQUIRE names backends."""
    message = f"{what} is not installed (docs/KEYS.md lists what the tests need)"
    if "backends" in os.environ.get("MODELVAULT_REQUIRE", ""):
        pytest.fail(message)
    pytest.skip(message)


def program(name: str) -> str:
    """The path of an executable, beside this interpreter or on the PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=places)
    if found is None:
        _missing(name)
    return str(found)


def module(name: str) -> None:
    """A package or a module in one; find_spec raises where a package around it is missing."""
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        _missing(f"Python package {name}")


def file(*places: str) -> str:
    """The first of ``places`` that exists."""
    found = next((place for place in places if Path(place).exists()), None)
    if found is None:
        _missing(places[0])
    return str(found)


def free_port() -> int:
    """A port below those of outgoing connections, any of which could take it before its server does."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def server(script: str, log: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """One of this folder's servers on a free port, which is its first argument: the port and the process."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name(script)), str(port), *options]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            yield port, process
        finally:
            process.kill()


@contextlib.contextmanager
def moto(log: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address and process."""
    with server("moto_server.py", log, *options) as (port, process):
        yield f"http://127.0.0.1:{port}", process


def aws_environment(address: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Only the server at ``address``, and nothing of who runs the tests."""
    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


def free_port_pair() -> int:
    """The first of two free ports in a row, which swtpm's clients expect."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError), socket.socket() as second:
            second.bind(("127.0.0.1", first + 1))
            return first


def told(*command: str) -> str:
    """What the command line says on standard error, in a process of its own: clients' warnings would stand there."""
    done = subprocess.run(
        [sys.executable, "-m", "modelvault", *command], capture_output=True, text=True, check=False, timeout=120
    )
    return done.stderr
