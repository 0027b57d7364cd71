"""DSSE envelopes (secure-systems-lab DSSE v1): signed bytes with one or more signatures beside them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelvault._codec import Fields, b64decode, b64encode, json_decode, json_encode
from modelvault.errors import FormatError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SIGNATURES = 64


class Verifier(Protocol):
    """A public signing key."""

    @property
    def fingerprint(self) -> str: ...

    def verify(self, message: bytes, signature: bytes) -> None: ...


class Signer(Protocol):
    """A private signing key, wherever it is kept."""

    @property
    def public(self) -> Verifier: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature; ``keyid`` is the signing key's fingerprint, a hint until it verifies."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An envelope whose signatures nobody has checked yet."""

    payload: bytes
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        return _spelled(b64encode(self.payload), self.signatures)

    @classmethod
    def from_bytes(cls, data: bytes, field: str, *, limit: int) -> "Envelope":
        """Parse; FormatError names the field below ``field``."""
        fields = Fields(json_decode(data, field, limit=limit), field)
        fields.exactly("payloadType", PAYLOAD_TYPE)
        payload = fields.text("payload", limit=len(data))
        signatures = tuple(
            _signature(item, f"{field}.signatures[{number}]")
            for number, item in enumerate(fields.items("signatures", limit=MAX_SIGNATURES))
        )
        fields.done()
        if not signatures:
            raise FormatError(f"{field}.signatures: expected at least one")
        if len({s.keyid for s in signatures}) != len(signatures):
            raise FormatError(f"{field}.signatures: two signatures of one key")
        envelope = cls(payload=b64decode(payload, f"{field}.payload"), signatures=signatures)
        if _spelled(payload, signatures) != data:  # one value, one encoding: nothing can hide in the spelling
            raise FormatError(f"{field}: JSON is not canonical")
        return envelope

    def verified_by(self, keys: Iterable[Verifier]) -> frozenset[str]:
        """Fingerprints of those of ``keys`` that signed; SignatureInvalid where one of them signed wrongly."""
        known = {key.fingerprint: key for key in keys}
        message = pre_authentication(self.payload)
        found = [s for s in self.signatures if s.keyid in known]
        for signature in found:
            known[signature.keyid].verify(message, signature.sig)
        return frozenset(s.keyid for s in found)


def _spelled(payload: str, signatures: Iterable[Signature]) -> bytes:
    """Canonical JSON of an envelope; base64 needs no escapes, and payloads are long."""
    listed = json_encode([{"keyid": s.keyid, "sig": b64encode(s.sig)} for s in signatures])
    return b'{"payload":"%b","payloadType":"%b","signatures":%b}' % (payload.encode(), PAYLOAD_TYPE.encode(), listed)


def _signature(item: object, field: str) -> Signature:
    fields = Fields(item, field)
    signature = Signature(keyid=fields.text("keyid", limit=128), sig=fields.binary("sig"))
    fields.done()
    return signature


def pre_authentication(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed. Lengths count bytes."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, signers: Sequence[Signer]) -> Envelope:
    """Sign ``payload`` with every key of ``signers``."""
    message = pre_authentication(payload)
    signatures = tuple(Signature(keyid=s.public.fingerprint, sig=s.sign(message)) for s in signers)
    return Envelope(payload=payload, signatures=signatures)
