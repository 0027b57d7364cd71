"""Edge-case models: each either behaves as its plain file does, or is refused with a reason."""

import sys
from pathlib import Path

import onnxruntime
import pytest
from conftest import Parties
from edge_models import CASES, build
from feeds import feed_for, same

from modelvault.errors import ModelError
from modelvault.onnxfile import split

REFUSED = {
    "dup_init": "two initializers are named 'w'",
    "empty": "no graph",
    "ext_abs": "absolute path",
    "ext_and_raw": "both external and inline data",
    "ext_backslash": "backslash",
    "ext_badoff": "expected a number",
    "ext_dir": "not a regular file",
    "ext_dotdot": "leaves its folder",
    "ext_empty": "empty path",
    "ext_hugeoff": "expected a number",
    "ext_len_eof": "ends at byte 256 of 200",
    "ext_len_shape": "its shape needs 256",
    "ext_missing": "no such file",
    "ext_negoff": "expected a number",
    "ext_noloc": "empty path",
    "ext_norm": "leaves its folder",
    "ext_off_eof": "ends at byte 4352 of 256",
    "ext_passwd": "leaves its folder",
    "ext_self": "model file itself",
    "ext_symlink_in": "symbolic link",
    "ext_symlink_out": "symbolic link",
    "ir_future": "ir_version 99",
    "opset_future": "opset 99",
    "raw_short": "255 bytes, its shape needs 256",
    "truncated": "protobuf does not parse",
}


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("edge"))


def plain_session(path: Path) -> onnxruntime.InferenceSession | None:
    """None where onnxruntime does not take the plain model either."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:
        return None


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_when_sealed(parties: Parties, edge: dict[str, Path], name: str) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        parties.seal(edge[name])
    assert sorted(p.name for p in parties.folder.iterdir()) == ["acme.pub", "trust.toml", "trusted"]


@pytest.mark.parametrize("move_from", [1024, 1])
@pytest.mark.parametrize("name", sorted(CASES.keys() - REFUSED.keys()))
def test_behaves_as_its_plain_file(
    parties: Parties, edge: dict[str, Path], name: str, move_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[split.__module__], "MOVE_FROM", move_from)
    if (name, move_from) == ("ext_overlap", 1):
        with pytest.raises(ModelError, match=r"overlaps in w\.bin at byte 128"):
            parties.seal(edge[name])
        return
    plain = plain_session(edge[name])
    sealed = parties.seal(edge[name])
    if plain is None:
        with pytest.raises(ModelError, match="onnxruntime refused the model"):
            parties.load(sealed)
        return
    feed = feed_for(plain)
    if name == "qdq":
        feed = {key: value * 10 for key, value in feed.items()}
    with parties.load(sealed) as session:
        assert same(plain.run(None, feed), session.run(None, feed))
