"""modelvault demo"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

import modelvault
from modelvault import samples
from modelvault.errors import ModelVaultError
from modelvault.keys import HostKey, PublisherKey, RecipientKey
from modelvault.trust import TrustPolicy, add_publisher


class DemoFailed(ModelVaultError):
    """Something that must be refused was not, or the other way round."""


@click.command("demo")
def command() -> None:
    """Tell the whole story on a bundled real model, in a temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="modelvault-demo-") as folder:
        _Story(Path(folder)).tell()


class _Story:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sealed = folder / "direction.mvlt"
        self.log = folder / "audit.log"

    def tell(self) -> None:
        self._keys()
        self._seal()
        self._verify()
        self._refuse()
        self._load()
        self._audit()

    def _keys(self) -> None:
        _title("1. Keys: the publisher signs, the customer decrypts, the host signs its audit log")
        self.publisher, self.own = PublisherKey.generate(), RecipientKey.generate()
        self.customer, self.stranger, self.host = RecipientKey.generate(), RecipientKey.generate(), HostKey.generate()
        _say(f"publisher  {self.publisher.public.algorithm:18} {self.publisher.public.fingerprint}")
        _say(f"customer   {self.customer.public.algorithm:18} {self.customer.public.fingerprint}")
        (self.folder / "acme.pub").write_bytes(self.publisher.public.to_pem())
        add_publisher(self.folder / "trust.toml", "acme", [self.folder / "acme.pub"], models=["direction"])
        self.trust = TrustPolicy.read(self.folder / "trust.toml")

    def _seal(self) -> None:
        _title("2. Seal: PaddleOCR's text direction classifier, encrypted and signed")
        report = modelvault.seal(
            samples.MODEL,
            self.sealed,
            name="direction",
            version="1.0",
            recipients=[self.customer.public],
            signers=[self.publisher],
            own=self.own.public,
        )
        _say(f"{samples.MODEL.name} ({report.source_bytes:,} bytes) -> {self.sealed.name}")
        _say(f"{report.tensors} weight tensors in an encrypted region of {report.region:,} bytes")

    def _verify(self) -> None:
        _title("3. Inspect and verify, with public keys alone")
        facts = modelvault.inspect(self.sealed)
        title = f"{facts.statement.name} {facts.statement.version}"
        _say(f"{title}, {len(facts.grants)} grants, root {facts.statement.root.hex()[:16]}...")
        model = modelvault.verify(self.sealed, self.trust)
        _say(f"signed by {model.publisher.name}, {facts.statement.payload_size:,} bytes of ciphertext unchanged")

    def _refuse(self) -> None:
        _title("4. What does not load")
        self._refused("a stranger without a grant", lambda: self._open(self.stranger))
        data = bytearray(self.sealed.read_bytes())
        data[-1000] ^= 1
        flipped = self.folder / "flipped.mvlt"
        flipped.write_bytes(data)
        self._refused("one flipped bit", lambda: self._open(self.customer, flipped))

    def _load(self) -> None:
        import onnxruntime

        _title("5. Load with the customer's key, and run")
        name, shape = samples.INPUT
        feed = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        plain = onnxruntime.InferenceSession(samples.MODEL, providers=["CPUExecutionProvider"]).run(None, feed)
        with self._open(self.customer) as session:
            guarded = session.run(None, feed)
        if not np.allclose(np.asarray(plain[0]), guarded[0], rtol=1e-5, atol=1e-7):
            raise DemoFailed("the sealed model's outputs differ from the plain model's")
        _say(f"outputs {np.round(guarded[0][0], 4).tolist()}, equal to the plain model's; nothing was written to disk")

    def _audit(self) -> None:
        _title("6. The audit log: every load and every refusal, signed by the host")
        events: list[str] = []
        report = modelvault.verify_log(self.log, self.host.public, visit=lambda record: events.append(record.event))
        _say(", ".join(events))
        _say(f"{report.size} records verified")
        data = self.log.read_bytes()
        self.log.write_bytes(data.replace(b"load.denied", b"load.done__", 1))
        self._refused("a refusal rewritten in the log", lambda: modelvault.verify_log(self.log, self.host.public))

    def _open(self, identity: RecipientKey, path: Path | None = None) -> Any:
        audit = modelvault.AuditLog(self.log, self.host)
        return modelvault.load(path or self.sealed, identity=identity, trust=self.trust, audit=audit)

    def _refused(self, what: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except ModelVaultError as error:
            words = str(error).replace(f"{self.folder}{os.sep}", "")
            _say(f"{what}: refused, {type(error).__name__}: {words[:90]}")
        else:
            raise DemoFailed(f"{what} was not refused")


def _title(text: str) -> None:
    click.secho(text, bold=True)


def _say(text: str) -> None:
    click.echo(f"   {text}")
