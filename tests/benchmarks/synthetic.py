"""A synthetic model of any size: a chain of MatMuls with square float32 weights, written one weight at a time."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

SIDE = 4096  # one weight is 64 MiB


def write(folder: Path, count: int, *, external: bool = True) -> Path:
    """``folder``/model.onnx with ``count`` weights of SIDE x SIDE, in weights.bin beside it or inside; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, size = np.random.default_rng(0), SIDE * SIDE * 4
    data = folder / "weights.bin"
    with data.open("wb") as file:
        for _ in range(count):
            file.write((rng.standard_normal(SIDE * SIDE, dtype=np.float32) * 0.01).data)
    tensors = []
    for number in range(count):
        tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[SIDE, SIDE])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", data.name), ("offset", str(number * size)), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(count)]
    ends = [helper.make_tensor_value_info(f"h{n}", TensorProto.FLOAT, ["n", SIDE]) for n in (0, count)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    if external:
        onnx.save(model, path)
    else:
        onnx.save(onnx.load_model_from_string(model.SerializeToString()), path)
    return path
