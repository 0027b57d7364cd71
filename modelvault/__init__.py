"""modelvault: ONNX models that are encrypted and signed at rest, and decrypted only inside a guarded session.

>>> import modelvault
>>> with modelvault.load("fraud.mvlt") as session:
...     outputs = session.run(None, {"x": x})
"""

import os
from typing import TYPE_CHECKING, Any

from modelvault._version import __version__
from modelvault.errors import ModelVaultError

if TYPE_CHECKING:
    from modelvault.audit import AuditLog, verify_log
    from modelvault.granting import grant
    from modelvault.keys import HostKey, OwnerSecret, PublisherKey, RecipientKey
    from modelvault.loader import load
    from modelvault.sealing import seal
    from modelvault.session import GuardedSession
    from modelvault.trust import TrustPolicy
    from modelvault.verification import inspect, verify

if os.name != "posix":
    raise ImportError("modelvault needs Linux or macOS: locks and files as POSIX has them; on Windows use it in WSL")

# What is expensive to import (onnx, onnxruntime) is imported when it is used.
_HOMES = {
    "AuditLog": "audit",
    "GuardedSession": "session",
    "HostKey": "keys",
    "OwnerSecret": "keys",
    "PublisherKey": "keys",
    "RecipientKey": "keys",
    "TrustPolicy": "trust",
    "grant": "granting",
    "inspect": "verification",
    "load": "loader",
    "seal": "sealing",
    "verify": "verification",
    "verify_log": "audit",
}

__all__ = [
    "AuditLog",
    "GuardedSession",
    "HostKey",
    "ModelVaultError",
    "OwnerSecret",
    "PublisherKey",
    "RecipientKey",
    "TrustPolicy",
    "__version__",
    "grant",
    "inspect",
    "load",
    "seal",
    "verify",
    "verify_log",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelvault' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"modelvault.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
