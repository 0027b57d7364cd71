"""The package's own supply chain: what it requires, what development is pinned to, what its metadata says."""

import configparser
import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements-dev.lock").read_text()
PINS = {canonicalize_name(name): Version(v) for name, v in re.findall(r"^([A-Za-z0-9_.-]+)==([^ ;\\]+)", LOCK, re.M)}
AGAIN = "stale requirements-dev.lock: its second line is the command that writes it anew"


def requirements() -> list[Requirement]:
    """Everything that setup.cfg asks for, extras included, but for its own extras."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    return [r for r in map(Requirement, lines) if r.name != "modelvault"]


def test_the_lock_holds_what_every_extra_asks_for() -> None:
    assert len(requirements()) > 30
    for requirement in requirements():
        pinned = PINS.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement}: {AGAIN}"
        assert requirement.specifier.contains(pinned, prereleases=True), f"{requirement}: {AGAIN}"


def test_every_pin_has_hashes() -> None:
    pins = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.M)[1:]
    assert len(pins) > 100
    for pin in pins:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin[:80]


def test_the_licence_is_an_spdx_expression() -> None:
    """PEP 639: License-Expression and License-File, and no classifier that says it again."""
    found = importlib.metadata.metadata("modelvault")
    assert found["License-Expression"] == "Apache-2.0"
    assert found.get_all("License-File") == ["LICENSE"]
    assert not [c for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_required_package_is_accounted_for() -> None:
    table = (ROOT / "docs" / "DEPENDENCIES.md").read_text()
    found = [Requirement(r) for r in importlib.metadata.requires("modelvault") or []]
    needed = {r.name for r in found if r.marker is None}
    assert needed == set(re.findall(r"^\| ([a-z]+) \| \d", table, re.M))
