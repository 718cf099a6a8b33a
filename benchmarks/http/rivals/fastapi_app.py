"""A FastAPI service around a predictor, as a competent user of the library writes it.

The *default* runs as in tutorials: one uvicorn worker, and the runtime's own number of threads. The
*tuned* variants run the same code with one thread per request and one worker per core, with uvloop,
httptools and no access log. `RIVAL_CONCURRENCY` limits the thread pool in which FastAPI computes.

All variants decode and preprocess with dimml's code. They differ from dimml's own service only in
HTTP parsing, batching, answering and, with PyTorch, the runtime (`models.py`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio.to_thread
import orjson
from fastapi import FastAPI, Form, HTTPException, Response, UploadFile

from benchmarks.http.rivals.models import rival_predictor
from dimml.errors import InputError


@asynccontextmanager
async def limited_threads(_: FastAPI) -> AsyncIterator[None]:
    """Limit the thread pool to `RIVAL_CONCURRENCY` threads; FastAPI's default is 40."""
    if concurrency := os.environ.get("RIVAL_CONCURRENCY"):
        anyio.to_thread.current_default_thread_limiter().total_tokens = int(concurrency)
    yield


app = FastAPI(lifespan=limited_threads)
predictor = rival_predictor()


@app.post("/predict")
def predict(
    audio: UploadFile | None = None,
    image: UploadFile | None = None,
    text: Annotated[str | None, Form()] = None,
) -> Response:
    """Return the prediction for one sample."""
    files = {"audio": audio, "image": image}
    sample: dict[str, Any] = {name: file.file.read() for name, file in files.items() if file}
    try:
        prediction = predictor.predict({**sample, "text": text})
    except InputError as error:
        raise HTTPException(400, error.message) from error
    return Response(orjson.dumps(prediction.to_dict()), media_type="application/json")
