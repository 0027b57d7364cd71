"""Which variants a recipient gets: its code word, drawn from the owner's secret, and the keys that it chooses."""

from modelvault.errors import NoMatchingKey
from modelvault.fingerprint.code import biases, code_key, code_word
from modelvault.keys import OwnerSecret
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
