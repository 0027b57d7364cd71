"""Grants in bulk for a large sealed file, side by side with hashing that file once: python tests/benchmarks/grants.py.

Prints seconds for N grants (issued and synced to disk) and for one reading of the payload, and the bytes that issuing
read from the file.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import synthetic

from modelvault import sealedfile
from modelvault.granting import Order, grant_all
from modelvault.keys import PublisherKey, RecipientKey
from modelvault.recipients import write_grants
from modelvault.sealedfile import SealedFile
from modelvault.sealing import seal


def measure(folder: Path, count: int, weights: int) -> dict[str, Any]:
    """Seconds and bytes; the file has ``weights`` x 64 MiB of weights."""
    publisher, own = PublisherKey.generate(), RecipientKey.generate()
    model = synthetic.write(folder / "source", weights)
    sealed = folder / "model.mvlt"
    seal(model, sealed, name="m", recipients=[], signers=[publisher], own=own.public)
    orders = {f"r{n:05}": Order(recipient=RecipientKey.generate().public) for n in range(count)}
    read = _count_reads()
    began = time.perf_counter()
    grants = grant_all(sealed, orders.values(), own=own, signer=publisher)
    write_grants(folder / "grants", zip(orders, grants, strict=True))
    issued = time.perf_counter() - began
    header_bytes = sum(read)
    began = time.perf_counter()
    with SealedFile(sealed) as file:
        file.verify_payload()
    return {
        "grants": count,
        "file_bytes": sealed.stat().st_size,
        "seconds": round(issued, 3),
        "bytes_read": header_bytes,
        "seconds_to_hash_the_payload": round(time.perf_counter() - began, 3),
        "grant_bytes": next((folder / "grants").iterdir()).stat().st_size,
    }


def _count_reads() -> list[int]:
    read: list[int] = []
    original = SealedFile._read

    def counted(self: SealedFile, view: memoryview, offset: int) -> None:
        read.append(len(view))
        original(self, view, offset)

    sealedfile.SealedFile._read = counted  # type: ignore[method-assign]
    return read


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grants", type=int, default=1000)
    parser.add_argument("--weights", type=int, default=16, help="times 64 MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, value in measure(Path(folder), options.grants, options.weights).items():
            print(f"{name:28} {value}")
