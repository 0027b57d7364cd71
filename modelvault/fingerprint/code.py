"""The code: a bit for each slot and recipient, drawn so that colluders cannot wash it out (docs/FINGERPRINTS.md).

Every slot has a bias, drawn once for a model; a recipient's bit is 1 with that probability, independently of all other
bits (Tardos, STOC 2003). The biases are few and exact: Nuida et al., "An improvement of discrete Tardos fingerprinting
codes", Designs, Codes and Cryptography 52 (2009): the zeros of a Legendre polynomial. Integers decide every bit.
"""

import numpy as np
import numpy.typing as npt

from modelvault._primitives import LABEL_FINGERPRINT, hkdf, keystream

Bits = npt.NDArray[np.uint8]
Biases = npt.NDArray[np.uint16]

ONE = 65_536
MAX_COALITION = 16

# Thresholds T and how many of 65536 draws give each, by half the coalition designed for.
_TABLE: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    1: ((32768,), (65536,)),
    2: ((13849, 51687), (32768, 32768)),
    3: ((7386, 32768, 58150), (21759, 22018, 21759)),
    4: ((4550, 21628, 43908, 60986), (16275, 16493, 16493, 16275)),
    5: ((3074, 15123, 32768, 50413, 62462), (12995, 13175, 13196, 13175, 12995)),
    6: ((2213, 11101, 24949, 40587, 54435, 63323), (10815, 10966, 10987, 10987, 10966, 10815)),
    7: ((1668, 8470, 19469, 32768, 46067, 57066, 63868), (9260, 9390, 9410, 9416, 9410, 9390, 9260)),
    8: (
        (1301, 6663, 15547, 26757, 38779, 49989, 58873, 64235),
        (8096, 8210, 8228, 8234, 8234, 8228, 8210, 8096),
    ),
}


def distribution(coalition: int) -> tuple[Biases, npt.NDArray[np.float64]]:
    """The biases of a code designed for a coalition (1 to MAX_COALITION), and the share of slots that has each."""
    thresholds, draws = _TABLE[(coalition + 1) // 2]
    return np.array(thresholds, np.uint16), np.array(draws) / ONE


def code_key(secret: bytes, original: bytes) -> bytes:
    """The key of all code words of one original: ``secret``: the owner's 32 bytes; ``original``: the digest."""
    return hkdf(secret, salt=original, info=LABEL_FINGERPRINT + b"code")


def biases(key: bytes, count: int, coalition: int) -> Biases:
    """For each of ``count`` slots the threshold T: a recipient's bit is 1 with probability T / 65536."""
    thresholds, draws = _TABLE[(coalition + 1) // 2]
    numbers = _numbers(hkdf(key, salt=b"", info=LABEL_FINGERPRINT + b"biases"), count)
    return np.array(thresholds, np.uint16)[np.searchsorted(np.cumsum(draws), numbers, side="right")]


def code_word(key: bytes, recipient: str, thresholds: Biases) -> Bits:
    """The bits of a recipient (by key fingerprint): (count,) of 0 and 1."""
    return (word_numbers(key, recipient, len(thresholds)) < thresholds).view(np.uint8)


def word_numbers(key: bytes, recipient: str, count: int) -> Biases:
    """The uniform numbers that a recipient's bits are compared from: (count,)."""
    return _numbers(hkdf(key, salt=recipient.encode(), info=LABEL_FINGERPRINT + b"word"), count)


def _numbers(key: bytes, count: int) -> Biases:
    """Uniform 16-bit numbers, little-endian, from an AES-256-CTR keystream."""
    return np.frombuffer(b"".join(bytes(p) for p in keystream(key, 2 * count)), "<u2")
