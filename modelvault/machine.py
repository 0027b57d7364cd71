"""A value that names this machine, to bind a licence to: derived from its machine id, and no secret.

It keeps honest deployments where they belong. Root can write another machine id, an image copied with /etc/machine-id
has the same value, and a container has its own or none: bind to a host key (better, one in a token) where that matters.
"""

import contextlib
import hashlib
import hmac
from pathlib import Path

PLACES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
LABEL = b"modelvault/v1/machine"


def machine_id() -> str | None:
    """HMAC-SHA256 of a label under the machine id, as 64 hex digits; None where the host has no machine id.

    machine-id(5) asks that the id itself be kept to the machine, and that applications derive their own from it.
    """
    for place in PLACES:
        with contextlib.suppress(OSError):
            raw = place.read_bytes().strip()
            if len(raw) == 32 and not raw.strip(b"0123456789abcdef") and raw.strip(b"0"):
                return hmac.new(bytes.fromhex(raw.decode("ascii")), LABEL, hashlib.sha256).hexdigest()
    return None
