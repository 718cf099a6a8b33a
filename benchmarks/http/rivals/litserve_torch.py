"""LitServe around the PyTorch model, batching up to 16 requests: what a competent user writes.

The default has one worker per device and PyTorch's own number of threads. Tuned is one worker
per core with `RIVAL_THREADS=1`, see `RIVAL_WORKERS`. Either way requests wait at most 5 ms for a
batch, each is decoded and preprocessed by dimml's own code in the worker, and each encoder runs
once for those that have its modality.
"""

# Without `from __future__ import annotations`: LitServe looks at the annotation of a request, and
# would not know one that is a string.
import os
import sys
from typing import Any

import litserve
from fastapi import Request
from starlette.datastructures import FormData

from benchmarks.http.rivals.torch_model import Input, TorchModel

MAX_BATCH = 16
BATCH_TIMEOUT = 0.005


class Api(litserve.LitAPI):
    """LitServe's contract: setup, decode, predict, encode."""

    def setup(self, device: str) -> None:
        self.model = TorchModel.from_environment()

    def decode_request(self, request: Request) -> Input:
        # LitServe has parsed the form by now: it hands over its fields.
        form: FormData = request  # type: ignore[assignment]
        sample = {
            name: value if isinstance(value, str) else value.file.read()
            for name, value in form.items()
        }
        return self.model.prepare(sample)

    def predict(self, batch: list[Input]) -> list[dict[str, Any]]:
        return self.model.predict(batch)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


def main() -> None:
    """Serves on the port of the first argument."""
    workers = int(os.environ.get("RIVAL_WORKERS", "1"))
    api = Api(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)


if __name__ == "__main__":
    main()
