"""A publisher seals a model for a customer: python seal.py [MODEL.onnx [OUT.mvlt]]"""

import sys
from pathlib import Path

import modelvault
from modelvault import defaults
from modelvault.keys import store

HERE = Path(__file__).parent


def main(model: Path = HERE / "ppocr-cls.onnx", output: Path = Path("direction.mvlt")) -> None:
    report = modelvault.seal(
        model,
        output,
        name="direction",
        version="1.0",
        recipients=[store.load_recipient_public("default")],
        signers=[store.load_publisher("default", defaults.environment_passphrase)],
        own=store.load_recipient_public(store.own_of("default", ".pub")),
    )
    print(f"{output}: {report.tensors} tensors, {report.region} bytes of weights, granted to {report.recipients[-1]}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
