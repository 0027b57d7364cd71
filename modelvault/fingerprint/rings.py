"""Which variants a recipient gets: its code word, drawn from the owner's secret, and the keys that it chooses."""

from collections.abc import Sequence

from modelvault.errors import FormatError, NoMatchingKey
from modelvault.fingerprint.code import biases, code_key, code_word
from modelvault.fingerprint.registry import Issued, Registry, Sealed, default_path, now
from modelvault.keys import OwnerSecret
from modelvault.manifest import ModelStatement
from modelvault.variants import Keys, MasterKey, Variants


class RecipientKeys:
    """Draws the slots' keys of one sealed file for any recipient. NoMatchingKey for another owner's secret."""

    def __init__(self, secret: OwnerSecret, variants: Variants, nonce: bytes, source: str) -> None:
        """``nonce``: the model statement's."""
        if secret.fingerprint != variants.owner:
            raise NoMatchingKey(f"{source}: fingerprints are of owner {variants.owner}, not {secret.fingerprint}")
        self._master = MasterKey.derive(secret.secret, nonce)
        self._key = code_key(secret.secret, variants.original)
        self._biases = biases(self._key, variants.slots, variants.coalition)

    def of(self, recipient: str, purpose: str = "run") -> Keys:
        """``recipient``: a key's fingerprint. For audits the master key, which opens both variants of every slot."""
        if purpose == "audit":
            return self._master
        return self._master.ring(code_word(self._key, recipient, self._biases).tobytes())


class Owner:
    """Who issues copies: a secret that draws the code words, and a registry of who got one."""

    def __init__(self, secret: OwnerSecret, registry: Registry | None = None) -> None:
        self.secret = secret
        self.registry = registry or Registry(default_path(secret.fingerprint), secret)

    def issue(
        self,
        statement: ModelStatement,
        digest: bytes,
        recipients: Sequence[tuple[str, str]],
        source: str,
        *,
        sealed: Sequence[Sealed] = (),
    ) -> RecipientKeys:
        """Record (fingerprint, label) of each recipient, then give what draws its keys. ``digest``: the statement's.

        ``sealed``: the model itself, where it is new to the registry; all records are written and synced together.
        Raises NoMatchingKey, FormatError, FileError: without a record there is no copy.
        """
        if statement.variants is None:
            raise FormatError(f"{source}: has no fingerprints")
        keys = RecipientKeys(self.secret, statement.variants, statement.nonce, source)
        original, moment = statement.variants.original, now()
        self.registry.append(
            *sealed,
            *(
                Issued(statement=digest, original=original, recipient=who, label=label, kind="slots", created=moment)
                for who, label in recipients
            ),
        )
        return keys
