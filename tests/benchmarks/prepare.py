"""What a model's measurements need, in one folder: keys, trust policy, the sealed file and its plain forms."""

import os
from pathlib import Path
from typing import Any

import onnx
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelvault.keys import HostKey, PublisherKey, RecipientKey
from modelvault.sealing import seal
from modelvault.trust import add_publisher

AEAD_LIMIT = 2**31 - 1


def prepare(model: Path, folder: Path, **settings: Any) -> Path:
    """Seal ``model``, with sealing's ``settings``, and write it plain.

    With weights inside (below protobuf's limit), outside, and AES-GCM encrypted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    publisher, customer, own, host = (
        PublisherKey.generate(),
        RecipientKey.generate(),
        RecipientKey.generate(),
        HostKey.generate(),
    )
    (folder / "acme.pub").write_bytes(publisher.public.to_pem())
    add_publisher(folder / "trust.toml", "acme", [folder / "acme.pub"], models=["*"])
    for name, key in (("customer", customer), ("host", host)):
        (folder / f"{name}.key").write_bytes(key.to_pem(None))
    seal(model, folder / "model.mvlt", recipients=[customer.public], signers=[publisher], own=own.public, **settings)
    loaded = onnx.load(model)
    if sum(len(t.raw_data) for t in loaded.graph.initializer) < AEAD_LIMIT:
        onnx.save(loaded, folder / "inline.onnx")
        (folder / "inline.aes").write_bytes(
            AESGCM(bytes(32)).encrypt(bytes(12), (folder / "inline.onnx").read_bytes(), None)
        )
    onnx.save(
        loaded, folder / "external.onnx", save_as_external_data=True, location="external.bin", convert_attribute=True
    )
    os.sync()
    return folder
