"""The code: exact tables, words that nobody's platform changes, bits as often 1 as their bias says."""

import re
from pathlib import Path

import numpy as np
import pytest

from modelvault.fingerprint import code

KEY = code.code_key(b"s" * 32, b"o" * 32)


@pytest.mark.parametrize("coalition", range(1, code.MAX_COALITION + 1))
def test_distribution_is_exact_and_symmetric(coalition: int) -> None:
    thresholds, shares = code.distribution(coalition)
    assert shares.sum() == 1
    assert len(thresholds) == (coalition + 1) // 2
    assert (thresholds.astype(int) + thresholds[::-1] == code.ONE).all()
    assert (shares == shares[::-1]).all()


def test_known_answers() -> None:
    biases = code.biases(KEY, 2048, 8)
    word = code.code_word(KEY, "SHA256:somebody", biases)
    assert biases[:8].tolist() == [43908, 60986, 43908, 43908, 43908, 60986, 60986, 60986]
    assert np.packbits(word)[:16].tobytes().hex() == "cf03042aa50b26e834f8db772efe660f"


def test_a_longer_code_begins_as_the_shorter_one() -> None:
    short, long = code.biases(KEY, 100, 8), code.biases(KEY, 2048, 8)
    assert (long[:100] == short).all()
    assert (code.code_word(KEY, "a", long)[:100] == code.code_word(KEY, "a", short)).all()


def test_bits_follow_their_biases_and_recipients_are_independent() -> None:
    biases = code.biases(KEY, 4096, 8)
    words = np.array([code.code_word(KEY, f"SHA256:{n}", biases) for n in range(1000)])
    expected = biases / code.ONE
    deviation = (words.mean(axis=0) - expected) / np.sqrt(expected * (1 - expected) / 1000)
    assert abs(deviation).max() < 5
    assert abs(deviation.std() - 1) < 0.05
    standard = (words - expected) / np.sqrt(expected * (1 - expected))
    between = standard @ standard.T / 4096
    assert abs(between - np.diag(np.diag(between))).max() < 6 / 64


@pytest.mark.parametrize("other", [code.code_key(b"t" * 32, b"o" * 32), code.code_key(b"s" * 32, b"p" * 32)])
def test_owner_and_original_both_decide(other: bytes) -> None:
    assert (code.biases(other, 512, 8) != code.biases(KEY, 512, 8)).any()
    biases = code.biases(KEY, 512, 8)
    assert (code.code_word(other, "a", biases) != code.code_word(KEY, "a", biases)).any()


def test_the_page_has_the_table_of_biases() -> None:
    page = (Path(__file__).parents[2] / "docs" / "FINGERPRINTS.md").read_text()
    rows = re.findall(r"^\| (\d+), (\d+) \| (\d+.*) \|$", page, re.M)
    assert [int(c) for row in rows for c in row[:2]] == list(range(1, code.MAX_COALITION + 1))
    for _, coalition, cell in rows:
        numbers = [int(n) for n in re.findall(r"\d+", cell)]
        thresholds, draws = (numbers[:2], [numbers[2]] * 2) if "each" in cell else (numbers[::2], numbers[1::2])
        found, shares = code.distribution(int(coalition))
        assert (found.tolist(), (shares * code.ONE).tolist()) == (thresholds, draws)
