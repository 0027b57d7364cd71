"""The payload's code."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelvault.watermark import code

KEY = b"k" * 32


def word_of(payload: bytes) -> bytes:
    return code.rs_encode(payload + code.check_bytes(KEY, payload))


@given(st.binary(min_size=16, max_size=16), st.data())
def test_corrects_every_pattern_of_errors_and_erasures_within_reach(payload: bytes, data: st.DataObject) -> None:
    word = word_of(payload)
    erasures = data.draw(st.integers(0, code.PARITY))
    errors = data.draw(st.integers(0, (code.PARITY - erasures) // 2))
    places = data.draw(st.permutations(range(code.WORD)))
    damaged = bytearray(word)
    for place in places[: erasures + errors]:
        damaged[place] ^= data.draw(st.integers(1, 255))
    assert code.rs_decode(bytes(damaged), list(places[:erasures])) == word


def test_refuses_what_is_beyond_reach() -> None:
    rng = np.random.default_rng(0)
    wrong = sum(code.rs_decode(rng.bytes(code.WORD), []) is not None for _ in range(300))
    assert wrong < 5  # 6 errors of 32: about one random word in 2000 lies near a codeword


def test_codewords_are_orthogonal() -> None:
    book = code._codebook().astype(int)
    products = np.abs(book @ book.T)
    assert sorted(set(products.reshape(-1).tolist())) == [0, code.CHIPS]
    assert np.unique(book, axis=0).shape == (256, code.CHIPS)


def test_decodes_through_noise_and_never_lies() -> None:
    rng = np.random.default_rng(1)
    read = 0
    for _ in range(20):
        payload = rng.bytes(16)
        sums = code.encode(payload, KEY) * (26 / 64) + rng.standard_normal(code.SLOTS)
        decoded = code.decode(sums, KEY)
        read += decoded is not None and decoded.payload == payload
        assert code.decode(rng.standard_normal(code.SLOTS), KEY) is None
    assert read >= 19


@pytest.mark.parametrize("payload", [bytes(16), b"\xff" * 16])
def test_other_keys_read_nothing(payload: bytes) -> None:
    sums = code.encode(payload, KEY).astype(np.float64)
    decoded = code.decode(sums, KEY)
    assert decoded is not None
    assert decoded.payload == payload
    assert decoded.corrected == 0
    assert code.decode(sums, b"x" * 32) is None
