"""Broken models: bytes changed at random, and well-formed messages whose fields are."""

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import EncodeError
from onnx import ModelProto

NUMBERS = (0, 1, -1, 2, 2**31, 2**62, 2**63 - 1, -(2**63), 99, 7)
TEXTS = (
    "",
    "x",
    "y",
    "w",
    "/etc/passwd",
    "../w.bin",
    "weights",
    "\x00",
    "\u202e",
    "a" * 3000,
    "0",
    "-1",
    "ai.onnx",
    "Loop",
    "If",
)
MAX_MODEL = 200_000


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, removed, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(max(len(changed), 1))
        length = rng.choice((1, 1, 2, 8, 40))
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at : at + length] = rng.randbytes(length)
        else:
            del changed[max(at, len(changed) // 2) :]
    return bytes(changed)


def change_fields(model: ModelProto, rng: random.Random) -> bytes | None:
    """A few fields of messages anywhere set, cleared, repeated or moved; None where the result is too large."""
    for _ in range(rng.randint(1, 6)):
        _change(_pick(model, rng), rng)
    try:
        data: bytes = model.SerializePartialToString()
    except EncodeError:
        return None
    return data if len(data) <= MAX_MODEL else None


def _pick(message: Any, rng: random.Random) -> Any:
    """A message below this one."""
    for _ in range(rng.randrange(8)):
        below: list[Any] = []
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                below += value if isinstance(value, Sequence) or hasattr(value, "add") else [value]
        if not below:
            break
        message = rng.choice(below)
    return message


def _change(message: Any, rng: random.Random) -> None:
    field = rng.choice(message.DESCRIPTOR.fields)
    current = getattr(message, field.name)
    if hasattr(current, "append"):
        _change_list(current, field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            current.SetInParent()
    else:
        _assign(lambda value: setattr(message, field.name, value), field, rng)


def _change_list(items: Any, field: Any, rng: random.Random) -> None:
    kind = rng.randrange(3)
    if kind == 0 and len(items):
        del items[rng.randrange(len(items))]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        items.add().CopyFrom(rng.choice(items)) if len(items) else items.add()
    else:
        _assign(items.append, field, rng)


def _assign(store: Any, field: Any, rng: random.Random) -> None:
    if field.type == FieldDescriptor.TYPE_BYTES:
        value: Any = rng.choice(TEXTS).encode()
    elif field.type == FieldDescriptor.TYPE_STRING:
        value = rng.choice(TEXTS)
    elif field.type == FieldDescriptor.TYPE_ENUM:
        value = rng.choice([v.number for v in field.enum_type.values])
    elif field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        value = rng.choice((0.0, float("nan"), float("inf"), 1e308, -1.0))
    else:
        value = rng.choice(NUMBERS)
    try:
        store(value)
    except ValueError:  # out of the field's range
        store(rng.randrange(100))
