"""A LitServe service around the PyTorch model that batches up to 16 requests.

The *default* has one worker per device and PyTorch's own number of threads. The *tuned* variant has
one worker per core (`RIVAL_WORKERS`) and `RIVAL_THREADS=1`. In both, a request waits at most 5 ms
for a batch, the workers decode and preprocess with dimml's own code, and each encoder runs once for
the rows that have its modality.
"""

# No `from __future__ import annotations`: LitServe inspects the annotation of a request and does
# not understand a string.
import os
import sys
from typing import Any

import litserve
from fastapi import Request
from starlette.datastructures import FormData

from benchmarks.http.rivals.models import rival_predictor
from dimml import InputError, Prediction
from dimml.outputs import PreparedSample

MAX_BATCH = 16
BATCH_TIMEOUT_SECONDS = 0.005


class MultimodalApi(litserve.LitAPI):
    """The four steps of a LitServe service: setup, decode, predict and encode."""

    def setup(self, device: str) -> None:
        self.predictor = rival_predictor()

    def decode_request(self, request: Request) -> PreparedSample | InputError:
        # LitServe parses the form and passes its fields.
        form: FormData = request  # type: ignore[assignment]
        sample = {
            name: value if isinstance(value, str) else value.file.read()
            for name, value in form.items()
        }
        return self.predictor.prepare(sample, "error")

    def predict(self, batch: list[PreparedSample | InputError]) -> list[Prediction | InputError]:
        return self.predictor.predict_prepared(batch)

    def encode_response(self, output: Prediction | InputError) -> dict[str, Any]:
        if isinstance(output, InputError):
            raise output
        return output.to_dict()


def main() -> None:
    """Serve on the port of the first argument."""
    workers = int(os.environ.get("RIVAL_WORKERS", "1"))
    api = MultimodalApi(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)


if __name__ == "__main__":
    main()
