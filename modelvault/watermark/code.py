"""The payload's code: 16 bytes and a keyed check, Reed-Solomon over bytes, Reed-Muller over slots.

Reed-Solomon (32, 20) over GF(256), polynomial x^8+x^4+x^3+x^2+1, roots a^0 to a^11; first-order Reed-Muller RM(1, 7)
turns each of the 32 bytes into 128 signs, decoded softly with a Hadamard transform. docs/WATERMARK.md section 5.
"""

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAYLOAD = 16
CHECK = 4
WORD = 32
CHIPS = 128
SLOTS = WORD * CHIPS
PARITY = WORD - PAYLOAD - CHECK
NO_PAYLOAD = bytes(PAYLOAD)

Poly = list[int]

_EXP = [0] * 510
_LOG = [0] * 256
_value = 1
for _power in range(255):
    _EXP[_power] = _EXP[_power + 255] = _value
    _LOG[_value] = _power
    _value = (_value << 1) ^ (0x11D if _value & 0x80 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A payload whose check held: the bytes, and how many of the 32 coded bytes had to be corrected."""

    payload: bytes
    corrected: int


def check_bytes(key: bytes, payload: bytes) -> bytes:
    """The first 4 bytes of HMAC-SHA256."""
    return hmac.new(key, payload, hashlib.sha256).digest()[:CHECK]


def encode(payload: bytes, key: bytes) -> npt.NDArray[np.int8]:
    """16 bytes -> SLOTS signs."""
    word = rs_encode(payload + check_bytes(key, payload))
    signs: npt.NDArray[np.int8] = _codebook()[list(word)].reshape(-1)
    return signs


def decode(sums: npt.NDArray[np.float64], key: bytes) -> Decoded | None:
    """The payload that the slots' correlations spell, or None where the code or the check does not hold.

    Bytes that are least sure are taken as erased first, two more at each attempt (generalised minimum distance).
    """
    spectrum = _hadamard(sums.reshape(WORD, CHIPS))
    order = np.sort(np.abs(spectrum), axis=1)
    sure = order[:, -1] - order[:, -2]
    best = np.argmax(np.abs(spectrum), axis=1)
    negative = spectrum[np.arange(WORD), best] < 0
    word = bytes(int(b) << 1 | int(n) for b, n in zip(best, negative, strict=True))
    weakest = np.argsort(sure, kind="stable").tolist()
    for erased in range(0, PARITY + 1, 2):
        fixed = rs_decode(word, weakest[:erased])
        if fixed is None:
            continue
        payload, check = fixed[:PAYLOAD], fixed[PAYLOAD : PAYLOAD + CHECK]
        if hmac.compare_digest(check, check_bytes(key, payload)):
            return Decoded(payload=payload, corrected=sum(a != b for a, b in zip(word, fixed, strict=True)))
    return None


def _codebook() -> npt.NDArray[np.int8]:
    """256 x 128 signs: byte b, chip i -> (-1)^(b0 + <b >> 1, i>)."""
    byte, chip = np.arange(256, dtype=np.uint8)[:, None], np.arange(CHIPS, dtype=np.uint8)[None, :]
    odd = (np.bitwise_count((byte >> 1) & chip) + (byte & 1)) & 1
    signs: npt.NDArray[np.int8] = (1 - 2 * odd.astype(np.int8)).astype(np.int8)
    return signs


def _hadamard(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Correlation of each row with the 128 linear codewords."""
    return rows @ _codebook()[::2].astype(np.float64).T


def _mul(a: int, b: int) -> int:
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def _inverse(a: int) -> int:
    return _EXP[255 - _LOG[a]]


def _poly_mul(a: Poly, b: Poly) -> Poly:
    """Coefficients with the lowest power first."""
    result = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] ^= _mul(x, y)
    return result


def _evaluate(poly: Poly, x: int) -> int:
    value = 0
    for coefficient in reversed(poly):
        value = _mul(value, x) ^ coefficient
    return value


def rs_encode(message: bytes) -> bytes:
    """20 bytes -> the same 20 bytes and 12 of parity; the first byte is the highest power's coefficient."""
    generator = [1]
    for power in range(PARITY):
        generator = _poly_mul(generator, [_EXP[power], 1])
    rest = [*message, *bytes(PARITY)]
    for at in range(len(message)):
        for offset in range(1, PARITY + 1):
            rest[at + offset] ^= _mul(generator[PARITY - offset], rest[at])
    return message + bytes(rest[len(message) :])


def rs_decode(word: bytes, erased: list[int]) -> bytes | None:
    """Correct a word of 32 bytes; ``erased`` are places known to be doubtful. None where it cannot be corrected.

    Forney syndromes and Berlekamp-Massey for the places, Forney's formula for the values.
    """
    poly = list(reversed(word))
    syndromes = [_evaluate(poly, _EXP[power]) for power in range(PARITY)]
    if not any(syndromes):
        return word
    locator = [1]
    for place in erased:
        locator = _poly_mul(locator, [1, _EXP[WORD - 1 - place]])
    known = _poly_mul(syndromes, locator)[len(erased) : PARITY]
    errors = _berlekamp_massey(known)
    if 2 * (len(errors) - 1) > PARITY - len(erased):
        return None
    locator = _poly_mul(locator, errors)
    places = [p for p in range(WORD) if _evaluate(locator, _EXP[(255 - p) % 255]) == 0]
    if len(places) != len(locator) - 1:
        return None
    evaluator = _poly_mul(syndromes, locator)[:PARITY]
    slope = [c if power % 2 == 0 else 0 for power, c in enumerate(locator[1:])]
    for place in places:
        x = _EXP[(255 - place) % 255]
        below = _evaluate(slope, x)
        if not below:
            return None
        poly[place] ^= _mul(_EXP[place], _mul(_evaluate(evaluator, x), _inverse(below)))
    if any(_evaluate(poly, _EXP[power]) for power in range(PARITY)):
        return None
    return bytes(reversed(poly))


def _berlekamp_massey(syndromes: list[int]) -> Poly:
    """The shortest error locator that explains the syndromes, lowest power first."""
    current, previous, gap, last, length = [1], [1], 1, 1, 0
    for n, syndrome in enumerate(syndromes):
        delta = syndrome
        for i in range(1, length + 1):
            if i < len(current):
                delta ^= _mul(current[i], syndromes[n - i])
        if delta == 0:
            gap += 1
            continue
        factor = _mul(delta, _inverse(last))
        shifted = [0] * gap + [_mul(factor, c) for c in previous]
        width = max(len(current), len(shifted))
        changed = [
            (current[i] if i < len(current) else 0) ^ (shifted[i] if i < len(shifted) else 0) for i in range(width)
        ]
        if 2 * length <= n:
            previous, last, length, gap = current, delta, n + 1 - length, 1
        else:
            gap += 1
        current = changed
    while len(current) > 1 and current[-1] == 0:
        current.pop()
    return current
