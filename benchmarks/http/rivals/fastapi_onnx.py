"""FastAPI around the exported graphs: the service of a competent user who knows dimml's library.

It calls `dimml.Predictor` for each request: onnxruntime on one thread, one uvicorn worker per
core with uvloop, httptools and no access log; `RIVAL_CONCURRENCY` tunes it further (`limits.py`).
Everything that dimml's own service is fast by, other than how it takes requests in, batches them
and answers, it has too.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Form, HTTPException, Response, UploadFile

from benchmarks.http.rivals.limits import limited_threads
from dimml import Predictor
from dimml.errors import InputError

app = FastAPI(lifespan=limited_threads)
predictor = Predictor.load(os.environ["RIVAL_BUNDLE"], "cpu", threads=1)


@app.post("/predict")
def predict(
    audio: UploadFile | None = None,
    image: UploadFile | None = None,
    text: Annotated[str | None, Form()] = None,
) -> Response:
    """The prediction for one sample."""
    files = {"audio": audio, "image": image}
    sample: dict[str, Any] = {name: file.file.read() for name, file in files.items() if file}
    try:
        prediction = predictor.predict({**sample, "text": text})
    except InputError as error:
        raise HTTPException(400, error.message) from error
    return Response(orjson.dumps(prediction.to_dict()), media_type="application/json")
