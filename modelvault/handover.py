"""Hand-overs: a publisher's old keys sign its new ones, so that loaders in the field follow without new trust.

After The Update Framework's root rotation (TUF specification, section 5.3): hand-over N + 1 must carry the signatures
that hand-over N asks for, and those that it asks for itself; numbers have no gaps. Bytes to values.
"""

from dataclasses import dataclass
from datetime import datetime

from modelvault._codec import format_time, json_digest, parse_time
from modelvault.errors import FormatError
from modelvault.keys import PublisherPublic
from modelvault.manifest import build_statement, check_name, open_statement

PREDICATE = "urn:modelvault:handover:v1"
MAX_HANDOVER = 2**20
MAX_KEYS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """``keys`` take the place of the publisher's keys so far; ``threshold`` of them must sign from now on."""

    publisher: str
    number: int
    created: datetime
    threshold: int
    keys: tuple[PublisherPublic, ...]

    def to_bytes(self) -> bytes:
        keys = [key.to_pem().decode("ascii") for key in self.keys]
        predicate = {
            "number": self.number,
            "created": format_time(self.created),
            "threshold": self.threshold,
            "keys": keys,
        }
        return build_statement(self.publisher, {"sha256": json_digest(keys).hex()}, PREDICATE, predicate)

    @classmethod
    def from_bytes(cls, data: bytes, field: str) -> "Handover":
        """Parse and validate; FormatError names the field below ``field``."""
        name, digest, fields = open_statement(data, field, "sha256", PREDICATE, MAX_HANDOVER)
        texts = fields.texts("keys", limit=MAX_KEYS)
        keys = tuple(
            PublisherPublic.from_pem(text.encode(), f"{fields.path}.keys[{n}]") for n, text in enumerate(texts)
        )
        handover = cls(
            publisher=check_name(name, f"{field}.subject"),
            number=fields.integer("number", low=1),
            created=parse_time(fields.text("created"), f"{fields.path}.created"),
            threshold=fields.integer("threshold", low=1, high=MAX_KEYS),
            keys=keys,
        )
        fields.done()
        if digest != json_digest(list(texts)):
            raise FormatError(f"{field}.subject.digest: does not fit the keys")
        if len({key.fingerprint for key in keys}) != len(keys) or handover.threshold > len(keys):
            raise FormatError(f"{fields.path}.keys: {handover.threshold} signatures of {len(keys)} keys, some repeated")
        return handover
