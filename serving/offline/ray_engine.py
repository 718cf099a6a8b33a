"""The engine of a cluster: Ray Data hands parts to actors, each with a predictor of its own."""

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

from dimml.errors import DimmlError, UsageError
from dimml.progress import print_status
from serving.offline.inputs import Inputs
from serving.offline.scorer import Scorer, joined
from serving.offline.workspace import Job, Part
from serving.settings import SOURCE_ROOT

try:
    import ray
    import ray.data
except ImportError as error:
    raise UsageError(
        f"--engine ray needs Ray ({error}): from a checkout run `pip install -e '.[ray]'`"
    ) from error


class RayEngine:
    """Scores on a Ray cluster, or on one that is started here for the time.

    A part is lost with the node that scores it, and scored again by another.

    Args:
        bundle: its folder; a copy reaches every node.
        address: of the cluster, "auto" for the one of this machine; None starts one.
        actors: how many at most; None for as many as there is room for.
        gpus: of one actor, such as 0.5 where two share a GPU.
    """

    def __init__(self, bundle: Path, address: str | None, actors: int | None, gpus: float) -> None:
        self._bundle, self._address, self._actors, self._gpus = bundle, address, actors, gpus

    def score(
        self, inputs: Inputs, job: Job, schema: pa.Schema, done: Collection[int], total: int
    ) -> Iterator[Part]:
        """The parts that are not done, in any order; the arguments are those of `Local.score`.

        Raises:
            DimmlError: the cluster cannot be reached, or an actor fails for good.
        """
        wanted = [n for n in range(-(-total // job.part_rows)) if n not in done]
        if not wanted:
            return
        self._connect()
        try:
            self._look_for_gpus()
            parts = ray.data.from_items(
                [{"part": number} for number in wanted], override_num_blocks=len(wanted)
            )
            scored = parts.map_batches(
                ScorePart,
                fn_constructor_args=(inputs, job, schema),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=self._actors),
                num_cpus=job.threads,
                num_gpus=self._gpus,
            )
            for row in scored.iter_rows():
                yield int(row["part"]), [pa.ipc.open_stream(row["table"]).read_all()]
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise DimmlError(f"the cluster could not score: {reason}") from error
        finally:
            ray.shutdown()

    def _look_for_gpus(self) -> None:
        """Refuses a machine without them, and says so of a cluster, which may yet get some."""
        found: Any = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if found.get("GPU", 0) >= self._gpus:
            return
        if self._address is None:
            raise UsageError(
                f"--gpus {self._gpus:g}: Ray finds no GPU on this machine; leave --gpus out, or "
                "name a cluster with --ray-address"
            )
        print_status(f"waiting: the cluster has no node with --gpus {self._gpus:g} now")

    def _connect(self) -> None:
        _check_answers(self._address)
        # Ray takes SIGTERM for itself.
        main = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGTERM)
        modules = [str(SOURCE_ROOT / "dimml"), str(SOURCE_ROOT / "serving")]
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
            if main:
                signal.signal(signal.SIGTERM, before)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # The order of the parts is in their numbers.
        context.execution_options.preserve_order = False


def _check_answers(address: str | None) -> None:
    """Refuses an address where nothing listens, which Ray would ask again for minutes."""
    host, colon, port = (address or "").rpartition("://")[2].rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise DimmlError(
            f"no Ray cluster at {address}: {error}; `ray status` on its head tells the address"
        ) from error


class ScorePart:
    """What an actor runs: it reads the rows of a part by itself, and returns their scores.

    Args:
        inputs: the tables, which every node can read.
        job: the settings.
        schema: of the output.
    """

    def __init__(self, inputs: Inputs, job: Job, schema: pa.Schema) -> None:
        self._inputs, self._job, self._schema = inputs, job, schema
        # The bundle is what Ray brought as the working folder.
        self._scorer = Scorer(Path.cwd(), job)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Part numbers to their tables, as Arrow streams."""
        tables = [self._table(int(number)) for number in batch["part"]]
        return {"part": batch["part"], "table": tables}

    def _table(self, number: int) -> bytes:
        windows = self._inputs.windows(
            self._job.part_rows, self._job.window_rows, start=number, stop=number + 1
        )
        tables = [joined(self._scorer.score(w.rows), w.kept, self._schema) for w in windows]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema) as writer:
            for table in tables:
                writer.write_table(table)
        content: bytes = sink.getvalue().to_pybytes()
        return content
