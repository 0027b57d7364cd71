"""Messages that no terminal obeys, and what an error of an audit log says beside its message."""

import pytest

from modelvault.errors import AuditTampered, FormatError, ModelVaultError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""), ("plain text", "plain text"), ("é\N{SNOWMAN}", "é\N{SNOWMAN}"), ("a\nb\x1b[2J", r"a\nb\x1b[2J"),
        ("é\n", r"é\n"), ("\u202e", r"\u202e"), ("'\n\"", r"'\n" + '"'), ("\ud800", r"\ud800"),
    ],
)  # fmt: skip
def test_text_on_one_line(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(FormatError(text)) == shown
    assert str(AuditTampered(text)) == shown


def test_what_an_audit_log_s_error_says() -> None:
    plain, full = AuditTampered("words"), AuditTampered("words", verdict="truncated", line=3)
    assert (plain.verdict, plain.line, str(plain)) == ("modified", None, "words")
    assert (full.verdict, full.line, str(full)) == ("truncated", 3, "words")
    assert isinstance(full, ModelVaultError)
