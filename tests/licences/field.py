"""A host in the field: its keys, trust policy and log as files, and loads in processes of their own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Parties

from modelvault import granting
from modelvault.audit import log as audit_log
from modelvault.audit import writing
from modelvault.policy import Terms

SCRIPT = """
import json, os, sys
import modelvault
from modelvault.keys import HostKey, RecipientKey
choices, runs, wait = json.loads(sys.argv[1])
folder = sys.argv[2]
read = lambda name: open(os.path.join(folder, name), "rb").read()
audit = modelvault.AuditLog(os.path.join(folder, "audit.log"), HostKey.from_pem(read("host.key"), None, "host"))
identity = RecipientKey.from_pem(read("customer.key"), None, "customer")
try:
    session = modelvault.load(sys.argv[3], identity=identity, trust=os.path.join(folder, "trust.toml"), audit=audit,
                              **choices)
    import numpy as np
    for _ in range(runs):
        session.run(None, {"x": np.zeros((1, 3, 48, 192), np.float32)})
    print(json.dumps(["ok", ""]), flush=True)
    if wait == "wait":
        sys.stdin.read()
    if wait == "kill":
        os.kill(os.getpid(), 9)
    session.close()
except modelvault.ModelVaultError as error:
    print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


@dataclass(slots=True)
class Field:
    """What a host holds, and how its processes load."""

    parties: Parties
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, key in (("host.key", self.parties.host), ("customer.key", self.parties.customer)):
            (self.parties.folder / name).write_bytes(key.to_pem(None))

    def grant(self, sealed: Path, name: str = "g.grant", **terms: Any) -> Path:
        """A grant beside the file, with these terms."""
        p = self.parties
        data = granting.grant(sealed, p.customer.public, own=p.own, signer=p.publisher, licence=Terms(**terms))
        path = p.folder / name
        path.write_bytes(data)
        return path

    def start(self, sealed: Path, *, runs: int = 0, wait: str = "", **choices: Any) -> subprocess.Popen[str]:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in choices.items()}
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps([settings, runs, wait]), str(self.parties.folder), str(sealed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        self.running.append(process)
        return process

    def answer(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """ok, or the error's type, and its words."""
        assert process.stdout is not None
        kind, words = json.loads(process.stdout.readline())
        return kind, words

    def end(self, process: subprocess.Popen[str]) -> None:
        process.communicate(timeout=60)

    def load(self, sealed: Path, **choices: Any) -> tuple[str, str]:
        """A load in a process that ends at once."""
        process = self.start(sealed, **choices)
        answer = self.answer(process)
        self.end(process)
        return answer

    def last(self, event: str) -> Any:
        return next(r for r in reversed(self.parties.records()) if r.event == event)


def clock(monkeypatch: pytest.MonkeyPatch, moment: datetime, *modules: Any) -> None:
    """The host's clock as these modules and the log see it."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment.astimezone(tz or UTC)

    for module in (audit_log, writing, *modules):
        monkeypatch.setattr(module, "datetime", Clock)
