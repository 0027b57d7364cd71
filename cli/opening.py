"""Models that a command looks into: plain files as they are, sealed ones opened with a grant and an audit record."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from modelvault import defaults
from modelvault.cli.common import Passphrase

if TYPE_CHECKING:
    from modelvault.onnxfile import OpenModel
    from modelvault.watermark.sealed import Auditor


def open_model(
    stack: contextlib.ExitStack,
    path: Path,
    identity: str | None,
    grant: Path | None,
    ask: Passphrase,
    purpose: str = "watermark",
) -> "Path | OpenModel":
    """The path of a plain file, or the opened model of a sealed one, which ``stack`` wipes. Raises as loading does."""
    from modelvault.watermark.sealed import is_sealed, opened

    if not is_sealed(path):
        return path
    return stack.enter_context(opened(path, auditor(identity, grant, ask), purpose=purpose))


def auditor(identity: str | None, grant: Path | None, ask: Passphrase) -> "Auditor":
    """Who looks into sealed files, and what is not named from the environment and the home folder."""
    from modelvault.watermark.sealed import Auditor

    return Auditor(
        identity=defaults.recipient(identity, ask),
        trust=defaults.trust_policy(None),
        log=defaults.audit_log(None, ask),
        grant=grant,
    )
