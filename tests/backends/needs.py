"""What the tests of key backends need of the machine: a real program, or a skip that names it."""

import importlib.util
import os
import shutil
import socket
import sys
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
    if importlib.util.find_spec(name) is None:
        _missing(f"Python package {name}")


def file(*places: str) -> str:
    """The first of ``places`` that exists."""
    found = next((place for place in places if Path(place).exists()), None)
    if found is None:
        _missing(places[0])
    return str(found)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
