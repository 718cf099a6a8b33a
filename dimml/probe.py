"""Whether a bundle runs on this machine's GPU, tried in a process of its own.

A library may be missing that only the first convolution loads, the GPU may be full, a limit too
low: that shows when something is computed. The process that starts a service or a job computes
nothing itself, and would hold hundreds of MB of the GPU for good if it tried.
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
    """The provider on which a bundle truly computes; why `auto` is not CUDA is said.

    Args:
        bundle: its folder.
        providers: "auto", "cuda", "tensorrt" or "cpu".
        gpu: how the GPU is used.
        batch_size: of the largest batch.

    Raises:
        ProviderError: a provider was asked for by name and cannot be had.
        UsageError: `providers` is another word.
    """
    problem = unavailable_reason("cuda") if providers == "auto" else None
    provider: Provider = "cpu" if problem else choose_provider(providers)
    if provider != "cpu":
        problem = _problem(bundle, provider, gpu or GpuOptions(), batch_size)
    if not problem:
        return provider
    if providers != "auto":
        raise ProviderError(problem)
    print_status(f"provider cpu: {problem}")
    return "cpu"


@lru_cache
def _problem(bundle: Path, provider: Provider, gpu: GpuOptions, batch_size: int) -> str | None:
    """Why the bundle does not compute there; None if it does."""
    asked = json.dumps([str(bundle), provider, dataclasses.asdict(gpu), batch_size])
    run = subprocess.run(
        [sys.executable, "-m", "dimml.probe", asked],
        capture_output=True,
        text=True,
        # Where this process finds its modules, the other shall too.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if run.returncode == 0:
        return None
    lines = run.stderr.strip().splitlines()
    return lines[-1] if lines else f"a process that tried {provider} ended with {run.returncode}"


def main() -> None:
    """Computes a batch of the examples; the last line of standard error says what was wrong."""
    from dimml.predictor import Predictor

    bundle, provider, gpu, batch_size = json.loads(sys.argv[1])
    try:
        Predictor.load(bundle, provider, gpu=GpuOptions(**gpu)).warm_up(batch_size)
    except DimmlError as error:
        sys.exit(" ".join(error.message.split()))


if __name__ == "__main__":
    main()
