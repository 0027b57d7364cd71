"""Where keys live: files under the home folder, private ones readable by their owner alone."""

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from modelvault import _files
from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.keys import remote, sources
from modelvault.keys.material import HostKey, HostPublic, PublisherKey, PublisherPublic, RecipientKey, RecipientPublic
from modelvault.keys.owner import OwnerSecret
from modelvault.keys.pem import Passphrase
from modelvault.keys.remote import HostSigner, PublisherSigner, Unwrapper, Wrapper

ROLES = ("publisher", "recipient", "owner", "host")
MAX_KEY_FILE = 64 * 2**10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """``$MODELVAULT_HOME``, else the platform's folder for configuration."""
    if chosen := os.environ.get("MODELVAULT_HOME"):
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "modelvault"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "modelvault"


def folder(role: str) -> Path:
    return home() / "keys" / role


def is_uri(reference: str) -> bool:
    """Whether a reference names a key by URI, and so neither a file nor a name."""
    return sources.is_source(reference) or remote.is_remote(reference)


def check_key_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FormatError(f"key name {name[:80]!r}: expected {_NAME.pattern}")
    return name


def find(role: str, reference: str, suffix: str) -> Path:
    """A path, or the name of a key in the home folder; KeyUnavailable where there is no such file."""
    path = Path(reference)
    if not ("/" in reference or _files.exists(path)):
        path = folder(role) / f"{check_key_name(reference)}{suffix}"
    if not (_files.exists(path) and path.is_file()):
        raise KeyUnavailable(f"{role} key {reference!r}: not found at {path}")
    return path


def read_private(path: Path) -> bytes:
    """A private file's bytes; KeyUnavailable where others could have read or replaced it."""
    with _files.failures(path):
        info = path.stat()
    if info.st_mode & 0o077:
        raise KeyUnavailable(f"{path}: mode {stat.S_IMODE(info.st_mode):04o} lets others use it, expected 0600")
    if info.st_uid not in (0, os.geteuid()):
        raise KeyUnavailable(f"{path}: owned by another user")
    return _files.read_bytes(path, limit=MAX_KEY_FILE)


def check_free(where: Path, name: str) -> None:
    """FileError where a key of this name stands already."""
    path = where / f"{check_key_name(name)}.key"
    if _files.exists(path) or _files.exists(path.with_name(f"{name}.pub")):
        raise FileError(f"{path}: a key of this name exists already")


def write_pair(where: Path, name: str, private: bytes, public: bytes | None) -> Path:
    """Write NAME.key (0600) and NAME.pub (0644) into a 0700 folder; FileError rather than replace a key."""
    return write_pairs(where, {name: (private, public)})[0]


def write_pairs(where: Path, pairs: Mapping[str, tuple[bytes, bytes | None]]) -> list[Path]:
    """Several pairs as write_pair does, or none of them: half a pair would stand in the way of the next attempt."""
    for name in pairs:
        check_free(where, name)
    made: list[Path] = []
    try:
        for name, (private, public) in pairs.items():
            with _files.failures(where / f"{name}.key"):
                where.mkdir(parents=True, exist_ok=True, mode=0o700)
            for data, suffix, mode in ((private, ".key", 0o600), (public, ".pub", 0o644)):
                if data is not None:
                    _files.write_new(where / f"{name}{suffix}", data, mode=mode)
                    made.append(where / f"{name}{suffix}")
        _files.sync_folder(where)
    except BaseException:
        _files.remove(*made)
        raise
    return [where / f"{name}.key" for name in pairs]


def load_publisher(reference: str, passphrase: Passphrase | None = None) -> PublisherSigner:
    """A publisher's key: a name, a path, or a URI (docs/KEYS.md). Raises KeyUnavailable, FormatError, FileError."""
    if remote.is_remote(reference):
        return remote.backend(reference).publisher(reference, passphrase)
    return PublisherKey.from_pem(*_private("publisher", reference, passphrase))


def own_of(publisher: str, suffix: str) -> str:
    """The path of a publisher's own recipient key, which stands beside its signing key as NAME.own."""
    if is_uri(publisher):
        raise KeyUnavailable(f"{publisher}: no own recipient key stands beside it, name one")
    path = find("publisher", publisher, ".key")
    return str(path.with_name(f"{path.name.removesuffix('.key')}.own{suffix}"))


def load_recipient(reference: str, passphrase: Passphrase | None = None) -> Unwrapper:
    """A recipient's key, likewise."""
    if remote.is_remote(reference):
        return remote.backend(reference).recipient(reference, passphrase)
    return RecipientKey.from_pem(*_private("recipient", reference, passphrase))


def load_host(reference: str, passphrase: Passphrase | None = None) -> HostSigner:
    """A host's key, likewise."""
    if remote.is_remote(reference):
        return remote.backend(reference).host(reference, passphrase)
    return HostKey.from_pem(*_private("host", reference, passphrase))


def load_owner(reference: str, passphrase: Passphrase | None = None) -> OwnerSecret:
    return OwnerSecret.from_pem(*_private("owner", reference, passphrase))


def load_publisher_public(reference: str, passphrase: Passphrase | None = None) -> PublisherPublic:
    """A publisher's public key: a name, a path, or a URI; a token may ask for its PIN."""
    if remote.is_remote(reference):
        return remote.backend(reference).publisher(reference, passphrase).public
    return PublisherPublic.from_pem(*_public("publisher", reference))


def load_recipient_public(reference: str, passphrase: Passphrase | None = None) -> Wrapper:
    if remote.is_remote(reference):
        return remote.backend(reference).recipient_public(reference, passphrase)
    return RecipientPublic.from_pem(*_public("recipient", reference))


def load_host_public(reference: str, passphrase: Passphrase | None = None) -> HostPublic:
    if remote.is_remote(reference):
        return remote.backend(reference).host(reference, passphrase).public
    return HostPublic.from_pem(*_public("host", reference))


def _private(role: str, reference: str, passphrase: Passphrase | None) -> tuple[bytes, Passphrase | None, str]:
    """The text of a private key, how to ask for its passphrase, and what to call it in errors."""
    if sources.is_source(reference):
        return sources.read(reference, limit=MAX_KEY_FILE), passphrase, reference
    path = find(role, reference, ".key")
    return read_private(path), passphrase, str(path)


def _public(role: str, reference: str) -> tuple[bytes, str]:
    if sources.is_source(reference):
        return sources.read(reference, limit=MAX_KEY_FILE), reference
    path = find(role, reference, ".pub")
    return _files.read_bytes(path, limit=MAX_KEY_FILE), str(path)


def passphrase_file(path: Path) -> bytes:
    """The first line of a file that only its owner reads, or of what ``env:``, ``fd:`` or ``keyring:`` names."""
    reference = str(path)
    text = sources.read(reference, limit=MAX_KEY_FILE) if sources.is_source(reference) else read_private(path)
    line = text.split(b"\n")[0].rstrip(b"\r")
    if not line:
        raise KeyUnavailable(f"{path}: empty passphrase")
    return line
