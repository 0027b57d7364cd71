"""What a scan costs beyond reading: python tests/benchmarks/scanning.py [--gib 1] [--rounds 3] [--json]

A model of 4096 x 4096 float matrices, once with its weights inline and once in a file beside it. Side by side, warm,
the best of the rounds: reading the file (whole, and piece by piece), scanning it, and what sealing's gate adds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelvault.scan import scan
from modelvault.scan.gate import Gate

SIDE = 4096


def build(folder: Path, gib: float, *, beside: bool) -> list[Path]:
    """The model's files: the graph's first."""
    rng, count = np.random.default_rng(0), max(1, round(gib * 2**30 / (4 * SIDE * SIDE)))
    weights, nodes = [], []
    for number in range(count):
        weights.append(numpy_helper.from_array(rng.standard_normal((SIDE, SIDE), dtype=np.float32), f"w{number}"))
        nodes.append(helper.make_node("MatMul", [f"y{number}", f"w{number}"], [f"y{number + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, SIDE]) for name in ("y0", f"y{count}")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{'beside' if beside else 'inline'}.onnx"
    onnx.save_model(model, path, save_as_external_data=beside, location="weights.bin")
    return [path, folder / "weights.bin"] if beside else [path]


def read_in_pieces(path: Path) -> int:
    buffer, done = bytearray(2**20), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            done += count
    return done


def best(work: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest round."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(files: list[Path], rounds: int) -> dict[str, float]:
    data = files[0].read_bytes()
    found = {
        "read_whole_s": best(lambda: sum(len(f.read_bytes()) for f in files), rounds),
        "read_pieces_s": best(lambda: sum(read_in_pieces(f) for f in files), rounds),
        "scan_s": best(lambda: scan(files[0]), rounds),
        "gate_s": best(lambda: Gate(files[0], [], []).look(data), rounds),
    }
    return found | {"scan_beyond_pieces_s": found["scan_s"] - found["read_pieces_s"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    choices = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for beside in (False, True):
            files = build(Path(folder), choices.gib, beside=beside)
            results["beside" if beside else "inline"] = measure(files, choices.rounds)
            for file in files:
                file.unlink()
    if choices.json:
        print(json.dumps(results, indent=2))
        return
    for name, figures in results.items():
        print(name, " ".join(f"{key} {value:.3f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
