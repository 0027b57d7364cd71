"""Shared parties: a publisher, its customers, a host, and the files that pass between them."""

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fetch_models
import numpy as np
import pytest

import modelvault
from modelvault import samples
from modelvault.audit import AuditLog
from modelvault.keys import HostKey, PublisherKey, RecipientKey, pem
from modelvault.loader import load
from modelvault.sealing import seal
from modelvault.session import GuardedSession
from modelvault.trust import TrustPolicy, add_publisher

MODELS = Path(os.environ.get("MODELVAULT_TEST_MODELS", fetch_models.DEFAULT))


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the keys of whoever runs it; key files are derived cheaply."""
    for name in list(os.environ):
        if name.startswith("MODELVAULT_") and name not in ("MODELVAULT_TEST_MODELS", "MODELVAULT_REQUIRE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELVAULT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pem, "SCRYPT_LOG_N", 10)


@dataclass(slots=True)
class Parties:
    """Keys of everybody in a story, and the folder it plays in."""

    folder: Path
    publisher: PublisherKey
    own: RecipientKey
    customer: RecipientKey
    stranger: RecipientKey
    host: HostKey

    @property
    def trust(self) -> TrustPolicy:
        return TrustPolicy.read(self.folder / "trust.toml")

    @property
    def log(self) -> AuditLog:
        return AuditLog(self.folder / "audit.log", self.host)

    def seal(self, model: Path = samples.MODEL, output: str = "model.mvlt", **settings: Any) -> Path:
        path = self.folder / output
        settings = {"recipients": [self.customer.public], "signers": [self.publisher], **settings}
        seal(model, path, own=self.own.public, **settings)
        return path

    def load(self, path: Path, **settings: Any) -> GuardedSession:
        return load(path, **{"identity": self.customer, "trust": self.trust, "audit": self.log, **settings})

    def records(self) -> list[Any]:
        records: list[Any] = []
        modelvault.verify_log(self.folder / "audit.log", self.host.public, visit=records.append)
        return records

    def events(self) -> list[str]:
        return [r.event for r in self.records()]


@pytest.fixture(scope="session")
def _keys() -> tuple[PublisherKey, RecipientKey, RecipientKey, RecipientKey, HostKey]:
    recipients = [RecipientKey.generate() for _ in range(3)]
    return (PublisherKey.generate(), *recipients, HostKey.generate())  # type: ignore[return-value]


@pytest.fixture
def parties(tmp_path: Path, _keys: tuple[Any, ...]) -> Parties:
    """Everybody, with a trust policy that lets the publisher "acme" seal any model."""
    folder = tmp_path / "parties"
    folder.mkdir()
    result = Parties(folder, *_keys)
    (folder / "acme.pub").write_bytes(result.publisher.public.to_pem())
    add_publisher(folder / "trust.toml", "acme", [folder / "acme.pub"], models=["*"])
    return result


@pytest.fixture
def sealed(parties: Parties) -> Path:
    """The bundled model, sealed for the customer."""
    return parties.seal(name="direction")


@pytest.fixture
def sample_input() -> dict[str, Any]:
    name, shape = samples.INPUT
    return {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@pytest.fixture(params=sorted(fetch_models.MODELS))
def real_model(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Each real model in turn; skipped where it was not fetched, unless MODELVAULT_REQUIRE names models."""
    path = MODELS / f"{request.param}.onnx"
    if not path.exists():
        message = f"{path} is not there: python tests/fetch_models.py"
        if "models" in os.environ.get("MODELVAULT_REQUIRE", ""):
            pytest.fail(message)
        pytest.skip(message)
    yield path


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond ``size`` bytes, as with a quota or a full disk: a write stops short."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, before)
