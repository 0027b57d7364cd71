"""Write every vector into this folder, the same bytes each time: python tests/vectors/make_vectors.py"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from vectors.builder import all_vectors  # noqa: E402


def main() -> None:
    found = {vector.path: vector.to_bytes() for vector in all_vectors()}
    for old in HERE.glob("*/*.vec"):
        if old.relative_to(HERE).as_posix() not in found:
            old.unlink()
    for path, data in found.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_bytes(data)
    print(f"{len(found)} vectors, {sum(map(len, found.values()))} bytes")


if __name__ == "__main__":
    main()
