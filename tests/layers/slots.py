"""A weights region with eight slots of variants, for tests."""

from collections.abc import Sequence
from typing import Any

from modelvault._primitives import TAG
from modelvault.variants import MasterKey, Variants, seal_slot, store_of

OWNER = "SHA256:" + "A" * 43
EIGHT = bytes([0, 1, 1, 0, 0, 0, 0, 1])
PLACES = (0, 100, 200, 300, 400, 500, 600, 700)


def variants(**changes: Any) -> Variants:
    values: dict[str, Any] = {
        "owner": OWNER, "original": bytes(32), "slots": 8, "length": 64, "coalition": 2, "commitment": bytes(32),
        **changes,
    }  # fmt: skip
    return Variants(**values)


def sealed_slots(master: MasterKey, places: Sequence[int] = PLACES) -> tuple[bytes, bytes]:
    """(region of 800 bytes, variants extent): variant 0 of slot n is 64 bytes n, variant 1 is 64 bytes 128 + n."""
    region, kept = bytearray(800), []
    for number, at in enumerate(places):
        place, more = seal_slot(master, number, bytes([number]) * 64, bytes([128 + number]) * 64)
        assert len(place) == 64
        assert len(more) == 64 + 2 * TAG
        region[at : at + 64] = place
        kept.append(more)
    return bytes(region), store_of(places, kept)
