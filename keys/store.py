"""Where keys live: files under the home folder, private ones readable by their owner alone."""

import os
import re
import stat
import sys
from pathlib import Path

from modelvault import _files
from modelvault.errors import FileError, FormatError, KeyUnavailable
from modelvault.keys.material import HostKey, HostPublic, PublisherKey, PublisherPublic, RecipientKey, RecipientPublic
from modelvault.keys.owner import OwnerSecret
from modelvault.keys.pem import Passphrase

ROLES = ("publisher", "recipient", "owner", "host")
MAX_KEY_FILE = 64 * 2**10
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def home() -> Path:
    """``$MODELVAULT_HOME``, else the platform's folder for configuration."""
    if chosen := os.environ.get("MODELVAULT_HOME"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA", Path.home())) / "modelvault"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "modelvault"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "modelvault"


def folder(role: str) -> Path:
    return home() / "keys" / role


def check_key_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise FormatError(f"key name {name[:80]!r}: expected {_NAME.pattern}")
    return name


def find(role: str, reference: str, suffix: str) -> Path:
    """A path, or the name of a key in the home folder; KeyUnavailable where there is no such file."""
    path = Path(reference)
    if not (path.exists() or "/" in reference or os.sep in reference):
        path = folder(role) / f"{check_key_name(reference)}{suffix}"
    if not path.is_file():
        raise KeyUnavailable(f"{role} key {reference!r}: not found at {path}")
    return path


def read_private(path: Path) -> bytes:
    """A private file's bytes; KeyUnavailable where others could have read or replaced it."""
    with _files.failures(path):
        info = path.stat()
    if os.name == "posix":
        if info.st_mode & 0o077:
            raise KeyUnavailable(f"{path}: mode {stat.S_IMODE(info.st_mode):04o} lets others use it, expected 0600")
        if info.st_uid not in (0, os.geteuid()):
            raise KeyUnavailable(f"{path}: owned by another user")
    return _files.read_bytes(path, limit=MAX_KEY_FILE)


def check_free(where: Path, name: str) -> None:
    """FileError where a key of this name stands already."""
    path = where / f"{check_key_name(name)}.key"
    if path.exists() or path.with_name(f"{name}.pub").exists():
        raise FileError(f"{path}: a key of this name exists already")


def write_pair(where: Path, name: str, private: bytes, public: bytes | None) -> Path:
    """Write NAME.key (0600) and NAME.pub (0644) into a 0700 folder; FileError rather than replace a key."""
    path = where / f"{name}.key"
    check_free(where, name)
    with _files.failures(path):
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(private)
            file.flush()
            os.fsync(file.fileno())
    if public is not None:
        _files.write_bytes(where / f"{name}.pub", public)
    return path


def load_publisher(reference: str, passphrase: Passphrase | None = None) -> PublisherKey:
    path = find("publisher", reference, ".key")
    return PublisherKey.from_pem(read_private(path), passphrase, str(path))


def own_of(publisher: str, suffix: str) -> str:
    """The path of a publisher's own recipient key, which stands beside its signing key as NAME.own."""
    path = find("publisher", publisher, ".key")
    return str(path.with_name(f"{path.name.removesuffix('.key')}.own{suffix}"))


def load_recipient(reference: str, passphrase: Passphrase | None = None) -> RecipientKey:
    path = find("recipient", reference, ".key")
    return RecipientKey.from_pem(read_private(path), passphrase, str(path))


def load_host(reference: str, passphrase: Passphrase | None = None) -> HostKey:
    path = find("host", reference, ".key")
    return HostKey.from_pem(read_private(path), passphrase, str(path))


def load_owner(reference: str, passphrase: Passphrase | None = None) -> OwnerSecret:
    path = find("owner", reference, ".key")
    return OwnerSecret.from_pem(read_private(path), passphrase, str(path))


def load_publisher_public(reference: str) -> PublisherPublic:
    path = find("publisher", reference, ".pub")
    return PublisherPublic.from_pem(_files.read_bytes(path, limit=MAX_KEY_FILE), str(path))


def load_recipient_public(reference: str) -> RecipientPublic:
    path = find("recipient", reference, ".pub")
    return RecipientPublic.from_pem(_files.read_bytes(path, limit=MAX_KEY_FILE), str(path))


def load_host_public(reference: str) -> HostPublic:
    path = find("host", reference, ".pub")
    return HostPublic.from_pem(_files.read_bytes(path, limit=MAX_KEY_FILE), str(path))


def passphrase_file(path: Path) -> bytes:
    """The first line of a file that only its owner reads."""
    line = read_private(path).split(b"\n")[0].rstrip(b"\r")
    if not line:
        raise KeyUnavailable(f"{path}: empty passphrase")
    return line
