"""FastAPI around the PyTorch model: what a competent user writes first, and what they tune.

The code is the same for both. The default runs it as the tutorials do: one uvicorn worker,
PyTorch's own number of threads. Tuned is `RIVAL_THREADS=1` and one worker per core with uvloop,
httptools and no access log; `RIVAL_CONCURRENCY` tunes it further (`limits.py`). Either way it has
dimml's preprocessing, typed form parameters, and the model under `inference_mode` in FastAPI's
thread pool.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, UploadFile

from benchmarks.http.rivals.limits import limited_threads
from benchmarks.http.rivals.torch_model import TorchModel
from dimml.errors import InputError

app = FastAPI(lifespan=limited_threads)
model = TorchModel.from_environment()


@app.post("/predict")
def predict(
    audio: UploadFile | None = None,
    image: UploadFile | None = None,
    text: Annotated[str | None, Form()] = None,
) -> dict[str, Any]:
    """The prediction for one sample."""
    files = {"audio": audio, "image": image}
    sample: dict[str, Any] = {name: file.file.read() for name, file in files.items() if file}
    if text:
        sample["text"] = text
    if not sample:
        raise HTTPException(400, "give at least one of audio, image, text")
    try:
        return model.predict([model.prepare(sample)])[0]
    except InputError as error:
        raise HTTPException(400, error.message) from error
