"""Slots are refused, with the figures, where they would trace nobody or change too much."""

from pathlib import Path

import pytest
from test_fingerprint import network
from watermark.models import mlp

from modelvault.errors import FormatError, ModelError
from modelvault.fingerprint.planning import SIZES, make_plan
from modelvault.fingerprint.rings import Owner
from modelvault.keys import OwnerSecret
from modelvault.watermark.embedding import Budget

OWNER = Owner(OwnerSecret(bytes(32)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("planning") / "net.onnx")


@pytest.mark.parametrize("coalition", [0, 9])
def test_coalitions_that_no_code_was_simulated_for(model: Path, coalition: int) -> None:
    with pytest.raises(FormatError, match="coalition: expected 1 to 8"):
        make_plan(model, OWNER, coalition=coalition)


def test_a_small_model_is_refused_with_every_size_that_was_tried(tmp_path: Path) -> None:
    small = mlp(tmp_path / "small.onnx")
    with pytest.raises(
        ModelError, match=r"too small to trace a coalition of 3 in 65536 weights: 1024 slots of 1\.3"
    ) as e:
        make_plan(small, OWNER, coalition=3)
    assert "2048 slots of 1.0" in str(e.value) and "4096 slots of 1.0" in str(e.value)
    assert "reached: " in str(e.value)


def test_a_model_that_may_hardly_change_is_refused(model: Path) -> None:
    with pytest.raises(ModelError, match="changes the model too much"):
        make_plan(model, OWNER, coalition=2, budget=Budget(cosine=0.99999999))


def test_a_larger_coalition_takes_more_slots(model: Path) -> None:
    slots = [make_plan(model, OWNER, coalition=c).layout.slots for c in (2, 4)]
    assert slots == [1024, 2048]


def test_more_recipients_take_more_slots(model: Path) -> None:
    plans = [make_plan(model, OWNER, coalition=3, recipients=n) for n in (1, 1000, 100_000)]
    assert [p.layout.slots for p in plans] == [1024, 1024, 1256]  # 1024 x (6 + 5) / (6 + 3), in eights
    assert plans[2].reach == "trace up to 3 colluders among 100,000 recipients"
    with pytest.raises(FormatError, match="a coalition of 8 among 2000 recipients takes 4240 slots, a file has"):
        make_plan(model, OWNER, coalition=8, recipients=2000)
    for count in (0, 1_000_001):
        with pytest.raises(FormatError, match=f"recipients: expected 1 to 1000000, got {count}"):
            make_plan(model, OWNER, recipients=count)


def test_sizes_are_in_order() -> None:
    """The first that is large enough is taken, so larger coalitions come later."""
    reaches, counts, _ = zip(*SIZES, strict=True)
    assert list(reaches) == sorted(reaches) and list(counts) == sorted(counts)
    assert all(count % 8 == 0 for count in counts)
