"""A sealed model behind NVIDIA Triton's Python backend: decrypted in this process alone, each load in the audit log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

import modelvault


class TritonPythonModel:
    """``config.pbtxt`` names the sealed file (parameter ``sealed``); keys and trust come from the environment.

    Tensors pass by DLPack: with numpy 2, ``as_numpy`` and ``Tensor(name, array)`` of Triton 2.51 silently give wrong
    values. DLPack has no strings: a model that takes text needs those two, and a Triton that was built for numpy 2.
    """

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"], args["model_version"])
        self.outputs = [output["name"] for output in config["output"]]
        self.inputs = [entry["name"] for entry in config["input"]]
        try:
            self.session = modelvault.load(folder / config["parameters"]["sealed"]["string_value"])
        except modelvault.ModelVaultError as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from None

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {name: np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)) for name in self.inputs}
        try:
            values = self.session.run(self.outputs, feed)
        except Exception as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{type(error).__name__}: {error}"[:500]))
        answers = zip(self.outputs, values, strict=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, value) for name, value in answers])

    def finalize(self) -> None:
        self.session.close()
