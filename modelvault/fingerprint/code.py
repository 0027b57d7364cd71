"""Code words: one keyed bit a slot, drawn with a bias that differs from slot to slot (Tardos 2003)."""

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_FINGERPRINT, hkdf, keystream

Biases = npt.NDArray[np.uint16]

_TABLE = np.array([6000, 20000, 32768, 45536, 59536], np.uint16)


def code_key(secret: bytes, original: bytes) -> bytes:
    """The key of one owner's code for one original."""
    return hkdf(secret, salt=original, info=LABEL_FINGERPRINT + b"code")


def biases(key: bytes, count: int, coalition: int) -> Biases:
    """For each slot T: a recipient's bit is 1 with probability T / 65536."""
    key = hkdf(key, salt=b"", info=LABEL_FINGERPRINT + b"biases")
    stream = b"".join(bytes(p) for p in keystream(key, count))
    return _TABLE[np.frombuffer(stream, np.uint8) % len(_TABLE)]


def code_word(key: bytes, recipient: str, biases: Biases) -> npt.NDArray[np.uint8]:
    """One bit a slot for the recipient whose key has this fingerprint."""
    key = hkdf(key, salt=b"", info=LABEL_FINGERPRINT + b"word" + recipient.encode())
    stream = b"".join(bytes(p) for p in keystream(key, 2 * len(biases)))
    return (np.frombuffer(stream, "<u2") < biases).astype(np.uint8)
