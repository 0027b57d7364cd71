"""The private key of a log's present epoch. Handing over to the next one erases it."""

import os
from collections.abc import Callable
from pathlib import Path

from modelvault import _files
from modelvault.errors import AuditTampered, AuditUnavailable, FileError, KeyUnavailable
from modelvault.keys import HostKey, HostPublic, store
from modelvault.keys.remote import HostSigner

Passphrase = Callable[[], bytes]


class LogKey:
    """A host key and, where it has one, its file: NAME.key holds the present epoch's key, NAME.pub the first one.

    A key without a file cannot be rotated. A file belongs to one log once it has been rotated.
    """

    def __init__(self, key: HostSigner, *, path: Path | None = None, passphrase: Passphrase | None = None) -> None:
        self.present: HostSigner = key
        self.path = path
        self._passphrase = passphrase
        public = path.with_suffix(".pub") if path else None
        self.first = store.load_host_public(str(public)) if public and public.exists() else key.public

    @classmethod
    def read(cls, reference: str, passphrase: Passphrase | None = None) -> "LogKey":
        """By name, path or URI; a key behind a URI has no file to rotate. Raises KeyUnavailable, FormatError."""
        if store.is_uri(reference):
            return cls(store.load_host(reference, passphrase))
        path = store.find("host", reference, ".key")
        return cls(store.load_host(str(path), passphrase), path=path, passphrase=passphrase)

    def of(self, public: HostPublic, log: Path) -> HostSigner:
        """The private half of the epoch's key, as another process may have put it into the file.

        AuditTampered where this key never was the log's, AuditUnavailable where it is not at hand.
        """
        wanted = public.fingerprint
        if self.present.public.fingerprint == wanted:
            return self.present
        if self.path is None:
            raise AuditTampered(
                f"{log}: signed by {wanted}, this key is {self.present.public.fingerprint}", verdict="unknown-key"
            )
        for path in (self.path, self._next):
            found = self._load(path)
            if found is not None and found.public.fingerprint == wanted:
                self.present = found
                if path == self._next:  # a process was killed between handing over and erasing
                    self._replace()
                return found
        raise AuditUnavailable(f"{log}: signed by {wanted}, which {self.path} does not hold")

    @property
    def _next(self) -> Path:
        return _files.beside(self._file, ".next")

    @property
    def _file(self) -> Path:
        if self.path is None:
            raise AuditUnavailable("this host key has no file, so it cannot be rotated")
        return self.path

    def _load(self, path: Path) -> HostSigner | None:
        try:
            return store.load_host(str(path), self._passphrase)
        except (KeyUnavailable, FileError):
            return None

    def prepare(self) -> HostKey:
        """Make the next key and keep it beside the present one, protected in the same way."""
        try:
            encrypted = b"ENCRYPTED" in store.read_private(self._file)
            if encrypted and self._passphrase is None:
                raise KeyUnavailable(f"{self._file}: encrypted, and no passphrase was given")
            key = HostKey.generate()
            secret = self._passphrase() if encrypted and self._passphrase else None
            _files.write_bytes(self._next, key.to_pem(secret), mode=0o600)
        except (FileError, KeyUnavailable) as error:
            raise AuditUnavailable(f"the audit key cannot be rotated: {error}") from None
        return key

    def adopt(self, key: HostKey) -> None:
        """The prepared key has been named by the log: let it replace the present one, and erase that."""
        self.present = key
        self._replace()

    def _replace(self) -> None:
        """Overwrite the old key once no name leads to it. Copies that a file system or a backup kept are beyond us."""
        try:
            with open(self._file, "r+b") as old:
                self._next.replace(self._file)
                _files.sync_folder(self._file.parent)
                old.write(bytes(os.fstat(old.fileno()).st_size))
                old.flush()
                os.fsync(old.fileno())
        except OSError as error:
            raise AuditUnavailable(f"{self._file}: the old key cannot be erased: {_files.reason(error)}") from None
