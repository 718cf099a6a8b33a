"""Test in a separate process whether a bundle runs on the GPU of this machine.

Some failures appear only when a graph runs: a library that onnxruntime loads with the first
convolution is missing, the GPU is full, or the memory limit is too low. The process that starts a
service or a job runs no graph itself, and a test there would hold hundreds of MB of GPU memory
until the process ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from dimml.errors import DimmlError, ProviderError
from dimml.progress import print_status
from dimml.runtime.providers import GpuOptions, Provider, choose_provider, unavailable_reason


def settle_provider(
    bundle: Path, providers: str, gpu: GpuOptions | None = None, batch_size: int = 1
) -> Provider:
    """Return a provider that runs the bundle, and print why "auto" falls back to the CPU.

    Args:
        bundle: Folder of the bundle.
        providers: "auto", "cuda", "tensorrt" or "cpu".
        gpu: Options of the GPU.
        batch_size: Size of the largest batch.

    Raises:
        ProviderError: If `providers` names a provider that does not run the bundle.
        UsageError: If `providers` is unknown.
    """
    problem = unavailable_reason("cuda") if providers == "auto" else None
    provider: Provider = "cpu" if problem else choose_provider(providers)
    if provider != "cpu":
        problem = _run_problem(bundle, provider, gpu or GpuOptions(), batch_size)
    if not problem:
        return provider
    if providers != "auto":
        raise ProviderError(problem)
    print_status(f"provider cpu: {problem}")
    return "cpu"


# A run takes seconds, and one process can ask several times.
@lru_cache
def _run_problem(bundle: Path, provider: Provider, gpu: GpuOptions, batch_size: int) -> str | None:
    """Run the bundle in a new process, and return why that fails or None if it succeeds."""
    arguments = json.dumps([str(bundle), provider, dataclasses.asdict(gpu), batch_size])
    run = subprocess.run(
        [sys.executable, "-m", "dimml.probe", arguments],
        capture_output=True,
        text=True,
        # The new process must find the same modules as this process.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if run.returncode == 0:
        return None
    lines = run.stderr.strip().splitlines()
    return lines[-1] if lines else f"the test of {provider} exited with code {run.returncode}"


def main() -> None:
    """Predict a batch of examples, and exit with the problem as the last line of stderr."""
    from dimml.predictor import Predictor

    bundle, provider, gpu, batch_size = json.loads(sys.argv[1])
    try:
        Predictor.load(bundle, provider, gpu=GpuOptions(**gpu)).warm_up(batch_size)
    except DimmlError as error:
        sys.exit(" ".join(error.message.split()))


if __name__ == "__main__":
    main()
