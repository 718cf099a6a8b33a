"""Measure how scoring speeds up with processes and with the nodes of a Ray cluster.

Run `python -m benchmarks.offline.scaling`; writes `benchmarks/results/scaling.json`. The nodes are
processes on this machine with one core each, so the speed stops growing at its number of cores.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from itertools import cycle
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from benchmarks.offline.scoring import read_score_report, score_command, write_table
from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from benchmarks.samples import complete_samples
from dimml.bundle import Bundle
from dimml.progress import print_status


def score_rate(bundle: Path, table: Path, out: Path, *options: str) -> float:
    """Score the table once and return the rows per second, from before the processes start."""
    command = score_command(bundle, table, "--overwrite", "--part-rows", "2000", *options)
    quiet = subprocess.DEVNULL
    subprocess.run([*command, str(out)], check=True, stderr=quiet, stdout=quiet)
    return float(read_score_report(out)["last_run"]["rows_per_second"])


def ray_rate(bundle: Path, table: Path, out: Path, nodes: int) -> float:
    """Score the table on a Ray cluster of nodes with one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        return score_rate(bundle, table, out, "--engine", "ray", "--ray-address", cluster.address)
    finally:
        cluster.shutdown()


def main() -> None:
    """Measure and write the report."""
    parser = benchmark_parser(__doc__, "bundle", "data")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--most", type=int, default=4, help="largest number of processes and nodes")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    bundle, repeats = options.bundle, range(options.repeats)
    samples = list(complete_samples(Bundle.load(bundle), options.data))
    by_rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        table, out = Path(name) / "in.parquet", Path(name) / "out"
        for rows in options.rows:
            write_table(table, cycle(samples), rows)
            medians: dict[str, dict[str, float]] = {"local": {}, "ray": {}}
            for count in range(1, options.most + 1):
                local = [score_rate(bundle, table, out, "--workers", str(count)) for _ in repeats]
                cluster = [ray_rate(bundle, table, out, count) for _ in repeats]
                medians["local"][str(count)] = statistics.median(local)
                medians["ray"][str(count)] = statistics.median(cluster)
                print_status(f"{rows} rows, {count}: {local} local, {cluster} on Ray")
            by_rows[str(rows)] = medians
    write_result("scaling", {"repeats": options.repeats, "rows": by_rows})


if __name__ == "__main__":
    main()
