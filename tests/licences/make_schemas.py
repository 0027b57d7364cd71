"""Write docs/schemas from the code; a test compares what is committed."""

import json
from pathlib import Path
from typing import Any

from modelvault import schemas

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"
FILES = {"terms.schema.json": schemas.terms, "trust.schema.json": schemas.trust}


def text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for name, make in FILES.items():
        (FOLDER / name).write_text(text(make()))
