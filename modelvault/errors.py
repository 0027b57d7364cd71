"""Every error that modelvault raises on purpose: one tree, one leaf for each thing a caller would handle differently.

Messages are lower case, carry no full stop, name the file and the field, and never hold a secret.
"""


def printable(text: str) -> str:
    """Text on one line that no terminal obeys: a hostile file's line breaks and escape sequences are spelt out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ModelVaultError(Exception):
    """The root: ``except ModelVaultError`` catches all that modelvault refuses."""

    def __str__(self) -> str:
        return printable(super().__str__())


class FormatError(ModelVaultError):
    """A file does not follow its format: sealed model, grant, key, policy, checkpoint."""


class ModelError(ModelVaultError):
    """An ONNX model cannot be sealed as it is: not parseable, inconsistent, or referring to files it must not use."""


class FileError(ModelVaultError):
    """A file cannot be read or written: missing, no permission, no space, not a regular file."""


class KeyUnavailable(ModelVaultError):
    """A key cannot be used: not found, wrong passphrase, or stored so that others can read it."""


class NoMatchingKey(ModelVaultError):
    """No grant for this model names the recipient key at hand."""


class SignatureInvalid(ModelVaultError):
    """A signature does not verify over the bytes it should cover."""


class UntrustedPublisher(ModelVaultError):
    """The trust policy does not let these keys vouch for this model, or there is no trust policy."""


class PayloadTampered(ModelVaultError):
    """The ciphertext, or the plain model folder, is not the one that the publisher signed."""


class PolicyDenied(ModelVaultError):
    """A term of the publisher's policy or of the grant's licence forbids this load."""


class Revoked(PolicyDenied):
    """The model, grant or key has been revoked."""


class AuditTampered(ModelVaultError):
    """An audit log is not what its host signed.

    ``verdict`` is one of the words of docs/AUDITING.md (``modified``, ``truncated`` ...); ``line`` counts from 1.
    """

    def __init__(self, message: str, *, verdict: str = "modified", line: int | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict
        self.line = line


class AuditUnavailable(ModelVaultError):
    """An audit record cannot be written, so what it would have recorded must not happen."""


class ForbiddenOption(ModelVaultError):
    """An onnxruntime option or call that could let the decrypted model out of the process."""


class HostUnsafe(ModelVaultError):
    """The host lacks a protection that the asked-for hardening level requires."""


class InputRejected(ModelVaultError):
    """An input lies outside what the model was made for."""


class QueryRefused(ModelVaultError):
    """A caller exceeded a limit of the query guard."""


class SessionClosed(ModelVaultError):
    """The session was closed; its weights are wiped."""
