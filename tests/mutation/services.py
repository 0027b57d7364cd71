"""A plugin of pytest for the tests of tests/backends, of which a fork runs only those that reach one mutant.

They run in the order in which they are written, since a file's last ones end its service. The clients are imported
once, before the forks. A run that reaches its time limit ends as one that fails does, with its services. Of a test
that starts processes, nobody sees which functions these reach: it counts for its whole module.
"""

import importlib
import os
import signal
from typing import Any

import pytest
from mutmut.state import state

SECONDS = 20  # for the services to end
STARTERS = {"in_a_process", "spied", "subprocess", "told"}

for _name in ("awskms", "azurekms", "gcpkms", "pkcs11", "tpm2", "vault"):
    importlib.import_module(f"modelvault.keys.{_name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: (*item.location[:2], item.nodeid))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("MUTANT_UNDER_TEST") != "stats":
        return
    for item in session.items:
        if isinstance(item, pytest.Function) and STARTERS & {*item.function.__code__.co_names}:
            module = f"modelvault.keys.{item.path.stem.removeprefix('test_')}."
            for name, tests in state().tests_by_mangled_function_name.items():
                if name.startswith(module):
                    tests.add(item.nodeid)


def pytest_configure() -> None:
    signal.signal(signal.SIGXCPU, _stop)


def _stop(*_: Any) -> None:
    signal.alarm(SECONDS)
    pytest.exit("the time limit is reached", returncode=36)  # what mutmut takes for a time limit
