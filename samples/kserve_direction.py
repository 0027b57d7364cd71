"""KServe's custom model class over a sealed model: MODEL=direction.mvlt python kserve_direction.py [--http_port 8080]

The model is decrypted once, into memory, when the server starts; every load leaves a line in the audit log.
"""

import os
import uuid

import kserve
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype

import modelvault


class SealedModel(kserve.Model):
    def load(self) -> bool:
        self.session = modelvault.load(os.environ.get("MODEL", "direction.mvlt"))
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None, response_headers=None):  # type: ignore[no-untyped-def]
        """Answers the open inference protocol (v2): inputs and outputs by the model's own names."""
        names = [output.name for output in self.session.get_outputs()]
        try:
            values = self.session.run(names, {entry.name: entry.as_numpy() for entry in payload.inputs})
        except modelvault.ModelVaultError as error:
            raise InvalidInput(f"{type(error).__name__}: {error}") from None
        outputs = []
        for name, value in zip(names, values, strict=True):
            output = kserve.InferOutput(name, list(value.shape), from_np_dtype(value.dtype))
            output.set_data_from_numpy(value, binary_data=False)
            outputs.append(output)
        return kserve.InferResponse(payload.id or str(uuid.uuid4()), self.name, outputs)

    def stop(self) -> None:
        self.session.close()


if __name__ == "__main__":
    model = SealedModel("direction")
    model.load()
    kserve.ModelServer().start([model])
