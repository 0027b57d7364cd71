"""A service that answers from a sealed model: MODEL=direction.mvlt uvicorn serve:app

The model is decrypted once, into memory, when the service starts; every load leaves a line in the audit log.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException

import modelvault


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with modelvault.load(os.environ.get("MODEL", "direction.mvlt")) as session:
        app.state.session = session
        yield


app = FastAPI(title="text direction", lifespan=lifespan)


@app.post("/predict")
def predict(image: list[list[list[float]]]) -> dict[str, Any]:
    """``image``: 3 x height x width, values from -1 to 1."""
    array = np.asarray([image], dtype=np.float32)
    if array.ndim != 4 or array.shape[1] != 3:
        raise HTTPException(422, f"expected 3 x height x width, got {array.shape[1:]}")
    (scores,) = app.state.session.run(None, {"x": array})
    return {"degrees": [0, 180][int(scores[0].argmax())], "score": float(scores[0].max())}
