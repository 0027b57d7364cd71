"""A plugin of pytest for tests that run side by side: each run has temporary folders of its own.

pytest's runs clear those of earlier ones in a folder that all share, and at times fail over each other's clearing:
about one mutant in a hundred was killed by that and not by a test.
"""

import shutil
import tempfile

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.option.basetemp = tempfile.mkdtemp(prefix="mutant-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.option.basetemp, ignore_errors=True)
