"""Score on a cluster: Ray Data gives parts to actors, each of which has its own predictor."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import dimml
import serving
from dimml.errors import DimmlError, UsageError
from dimml.progress import print_status
from serving.offline.inputs import Inputs
from serving.offline.scorer import Scorer, from_stream, to_stream
from serving.offline.workspace import Job, ScoredPart

try:
    import ray
    import ray.data
except ImportError as error:
    raise UsageError(
        f"--engine ray needs Ray ({error}): from a checkout run `pip install -e '.[ray]'`"
    ) from error


class RayEngine:
    """Scores on a Ray cluster. When a node is lost, other nodes score its parts again.

    Args:
        bundle: Folder of the bundle; Ray copies it to every node.
        address: Address of the cluster, "auto" for that of this machine; None starts one here.
        actors: Limit of the number of actors; None for as many as have room.
        gpus: GPUs of one actor, such as 0.5 where two actors share a GPU.
    """

    def __init__(self, bundle: Path, address: str | None, actors: int | None, gpus: float) -> None:
        self._bundle, self._address, self._actors, self._gpus = bundle, address, actors, gpus

    def score(
        self, inputs: Inputs, job: Job, schema: pa.Schema, done: Collection[int], total: int
    ) -> Iterator[ScoredPart]:
        """Yield the parts that are not done, in any order; see `LocalEngine.score`.

        Raises:
            DimmlError: If the cluster cannot be reached, or an actor fails.
        """
        missing = [n for n in range(-(-total // job.part_rows)) if n not in done]
        if not missing:
            return
        self._connect()
        try:
            self._check_gpus()
            parts = ray.data.from_items(
                [{"part": number} for number in missing], override_num_blocks=len(missing)
            )
            scored = parts.map_batches(
                PartScorer,
                fn_constructor_args=(inputs, job, schema),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._actors),
                num_cpus=job.threads,
                num_gpus=self._gpus,
            )
            for row in scored.iter_rows():
                yield int(row["part"]), [from_stream(row["table"])]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DimmlError(f"the cluster could not score: {reason}") from error
        finally:
            ray.shutdown()

    def _check_gpus(self) -> None:
        resources: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if resources.get("GPU", 0) >= self._gpus:
            return
        # A cluster may add a node with GPUs later; this machine cannot.
        if self._address is None:
            raise UsageError(
                f"--gpus {self._gpus:g}: Ray finds no GPU on this machine; leave --gpus out, or "
                "name a cluster with --ray-address"
            )
        print_status(f"waiting: the cluster has no node with --gpus {self._gpus:g} now")

    def _connect(self) -> None:
        _check_reachable(self._address)
        # Ray installs a SIGTERM handler, which would end the job in the middle of a part.
        previous_handler = signal.getsignal(signal.SIGTERM)
        # The nodes score with the packages that this process runs, wherever those are.
        modules = [str(Path(str(package.__file__)).parent) for package in (dimml, serving)]
        try:
            ray.init(
                self._address,
                runtime_env={"working_dir": str(self._bundle), "py_modules": modules},
                log_to_driver=False,
                logging_level=logging.WARNING,
                include_dashboard=False if self._address is None else None,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DimmlError(
                f"no Ray cluster at {self._address or 'this machine'}: {error}"
            ) from error
        finally:
            # Only the main thread may install signal handlers.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, previous_handler)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Parts are written under their numbers, so they may arrive in any order.
        context.execution_options.preserve_order = False


def _check_reachable(address: str | None) -> None:
    """Reject an address where nothing listens, to which Ray would try to connect for minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise DimmlError(
            f"no Ray cluster at {address}: {error}; `ray status` on the head node shows the address"
        ) from error


class PartScorer:
    """The actor: reads the rows of a part from the tables, to which its node needs access."""

    def __init__(self, inputs: Inputs, job: Job, schema: pa.Schema) -> None:
        self._inputs, self._job, self._schema = inputs, job, schema
        # Ray copies the bundle to the node as the working folder.
        self._scorer = Scorer(Path.cwd(), job)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the scores of parts as Arrow streams."""
        streams = [self._score_part(int(number)) for number in batch["part"]]
        return {"part": batch["part"], "table": streams}

    def _score_part(self, number: int) -> bytes:
        windows = self._inputs.windows(
            self._job.part_rows, self._job.window_rows, start=number, stop=number + 1
        )
        tables = [
            pa.table([*self._scorer.score(w.rows).columns, *w.kept.columns], schema=self._schema)
            for w in windows
        ]
        return to_stream(tables, self._schema)
