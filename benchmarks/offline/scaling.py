"""How scoring speeds up with processes and with the nodes of a Ray cluster.

Run as `python -m benchmarks.offline.scaling`; writes `benchmarks/results/scaling.json`. The nodes
run on this machine, one core each, so the curve ends where its cores do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from benchmarks.offline.batch import write_table
from dimml.machine import describe_machine

RESULT = Path(__file__).parents[1] / "results" / "scaling.json"


def rate(bundle: Path, table: Path, out: Path, *options: str) -> float:
    """Rows per second of one run, from before its processes start."""
    command = [sys.executable, "-m", "dimml", "score", str(bundle), str(table), str(out)]
    command += ["--overwrite", "--providers", "cpu", "--part-rows", "2000", *options]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    found = json.loads((out / "_SUCCESS.json").read_text())["last_run"]["rows_per_second"]
    return float(found)


def on_ray(bundle: Path, table: Path, out: Path, nodes: int) -> float:
    """On a cluster of that many nodes of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=1)
        return rate(bundle, table, out, "--engine", "ray", "--ray-address", cluster.address)
    finally:
        cluster.shutdown()


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/bundle"))
    parser.add_argument("--data", type=Path, default=Path("runs/digits/data"))
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--most", type=int, default=4, help="processes and nodes")
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": describe_machine(), "repeats": given.repeats, "rows": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in given.rows:
            table, out = folder / f"{rows}.parquet", folder / "out"
            write_table(table, given.bundle, given.data.absolute(), rows)
            found: dict[str, dict[str, float]] = {"local": {}, "ray": {}}
            for count in range(1, given.most + 1):
                local = [
                    rate(given.bundle, table, out, "--workers", str(count))
                    for _ in range(given.repeats)
                ]
                cluster = [on_ray(given.bundle, table, out, count) for _ in range(given.repeats)]
                found["local"][str(count)] = statistics.median(local)
                found["ray"][str(count)] = statistics.median(cluster)
                sys.stdout.write(f"{rows} rows, {count}: {local} local, {cluster} on Ray\n")
                sys.stdout.flush()
            report["rows"][str(rows)] = found
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
