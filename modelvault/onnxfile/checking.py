"""What ONNX itself says about a model: its checker's complaint, its versions, hidden fields, and small constants."""

import math
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto, TensorProto, numpy_helper

from modelvault.onnxfile.walk import constants, other_tensors

IR_VERSION: int = onnx.IR_VERSION
OPSET: int = onnx.defs.onnx_opset_version()
MAX_VALUES = 4096

_NUMBERS = frozenset(
    {TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.INT8}
    | {TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.INT16, TensorProto.UINT16}
)


def complaint(model: ModelProto) -> str | None:
    """The first thing ``onnx.checker`` has against a model, as one line of ASCII.

    External data is not looked at. An input or output without a shape is none of its complaints here: many exporters
    leave it out, and every runtime takes it.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    inline = [attribute.t for _, attribute in constants(copy.graph)]
    for tensor in [*copy.graph.initializer, *inline, *other_tensors(copy)]:
        if is_external(tensor):
            name, kind = tensor.name, tensor.data_type
            tensor.Clear()
            tensor.name, tensor.data_type = name, kind
            tensor.dims.append(0)  # an empty tensor needs no data
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(copy.SerializePartialToString())
    except Exception as error:  # whatever the C++ side throws: it is a complaint, not our failure
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return ascii(lines[0][:300])[1:-1]
    return None


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's data stands outside of the message."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def hidden_bytes(model: ModelProto) -> int:
    """Bytes of fields that ONNX does not define: no runtime reads them, and every copy carries them along."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.DiscardUnknownFields()
    return int(model.ByteSize() - copy.ByteSize())


def undecodable(model: ModelProto) -> str | None:
    """The name of a field of text that is not UTF-8: Python's protobuf gives it as bytes, which no reader expects."""
    waiting: list[Any] = [model]
    while waiting:
        for field, value in waiting.pop().ListFields():
            if field.type == FieldDescriptor.TYPE_STRING:
                if isinstance(value, bytes) or (field.is_repeated and any(isinstance(v, bytes) for v in value)):
                    return str(field.name)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                waiting += value if field.is_repeated else [value]
    return None


def small_numbers(tensor: TensorProto) -> tuple[float, ...] | None:
    """The flat values of a small tensor of numbers that is stored inline; None for any other."""
    if is_external(tensor) or tensor.data_type not in _NUMBERS or len(tensor.dims) > 8:
        return None
    if any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) > MAX_VALUES:
        return None
    try:
        values = numpy_helper.to_array(tensor).ravel().tolist()
    except (ValueError, TypeError):
        return None
    return tuple(values)
