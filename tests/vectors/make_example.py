"""Make the worked example of docs/FORMAT.md anew, with keys that are thrown away; the page must be changed with it."""

import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from modelvault.keys import PublisherKey, RecipientKey
from modelvault.sealing import seal

HERE = Path(__file__).parent


def main() -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    publisher = PublisherKey.generate("ed25519")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "relu.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
        own = RecipientKey.generate("x25519").public
        seal(model, HERE / "example.mvlt", recipients=[], signers=[publisher], own=own, version="1.0")
    (HERE / "example.pub").write_bytes(publisher.public.to_pem())


if __name__ == "__main__":
    main()
