"""Ingest of GK-2A local-area granules from a loopback S3 server, beside its two halves done alone.

    python tests/benchmarks/bench_ingest.py [--granules 300] [--pixels 500]

`download` fetches and verifies all granules with the ingest's own concurrency; `decode + encode` calibrates them from
memory and writes the archive, on the same number of threads. An ingest that overlaps the two well takes as long as
the slower of them, unless the cores are full: the server, the ingest and the library's children share those of this
machine. How long the two halves take at once, as two processes that have nothing to do with each other, is a row of
its own.
Prints the peak memory of an ingest of half the range and of all of it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import boto3
import psutil

from core.archive import Archive
from core.config import IngestConfig, TimeRange
from core.ingest import ingest
from core.satellite import simulator, source
from core.satellite.courier import COURIER
from core.satellite.granule import Granule
from tests.core import loopback
from tests.core.memory import peak_megabytes

BUCKET = "noaa-gk2a-pds"


def config(archive: str, granules: int, pixels: int) -> IngestConfig:
    start = "2024-03-01T00:00"
    base = {
        "source": f"s3://{BUCKET}", "anonymous": False, "archive": archive, "channels": ["ir105"],
        "times": {"start": start, "end": "2025-01-01"}, "origin": start, "cadence_minutes": 2, "years": 1,
        "simulator": {"enabled": True, "pixels": pixels},
    }  # fmt: skip
    whole = IngestConfig.model_validate(base)
    end = whole.times.start + timedelta(minutes=2 * granules)
    return whole.model_copy(update={"times": TimeRange(start=whole.times.start, end=end)})


def cpu_seconds() -> float:
    """CPU time so far of this process and of its children, the S3 server among them."""
    me = psutil.Process()
    ended = me.cpu_times().children_user + me.cpu_times().children_system
    return ended + sum(one.cpu_times().user + one.cpu_times().system for one in (me, *me.children(recursive=True)))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    begin, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - begin, cpu_seconds() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--granules", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=500)
    parser.add_argument("--alone", default="", help=argparse.SUPPRESS)
    parser.add_argument("--download", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.download:
        settings = IngestConfig.model_validate_json(options.download)
        granules = source.list_granules(settings)
        print("ready", flush=True)
        sys.stdin.readline()
        download(settings, granules, {})
        return
    if options.alone:
        ingest(IngestConfig.model_validate_json(options.alone))
        return
    folder = Path(tempfile.mkdtemp(prefix="fewcast-bench-"))
    with loopback.seaweed() as endpoint:
        os.environ.update(loopback.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        try:
            measure(options.granules, options.pixels, folder)
        finally:
            shutil.rmtree(folder)


def download(settings: IngestConfig, granules: list[Granule], held: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(settings.connections) as pool:
        for granule, content in zip(granules, pool.map(lambda one: source.fetch(one, settings), granules), strict=True):
            held[granule.url] = content


def measure(count: int, pixels: int, folder: Path) -> None:
    settings = config(str(folder / "whole.zarr"), count, pixels)
    simulator.simulate(settings)
    granules = source.list_granules(settings)
    assert len(granules) == count
    held: dict[str, bytes] = {}

    def decode_and_encode(name: str) -> None:
        with mock.patch.object(source, "fetch", lambda granule, _: held[granule.url]):
            ingest(settings.model_copy(update={"archive": str(folder / name)}))

    def both() -> None:
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.close()
        decode_and_encode("both.zarr")
        assert other.wait() == 0

    rows = {
        "download alone": seconds(lambda: download(settings, granules, held)),
        "decode + encode alone": seconds(lambda: decode_and_encode("memory.zarr")),
    }
    command = [sys.executable, __file__, "--download", settings.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        rows["both at once, apart"] = seconds(both)
    COURIER.end()  # an ingest starts it itself, as a first one does
    rows["ingest"] = seconds(lambda: ingest(settings))
    assert (Archive.open(settings.archive).status == 1).sum() == count
    megabytes = sum(granule.size for granule in granules) / 1e6
    print(f"{count} granules of {pixels} x {pixels}, {megabytes:.0f} MB, {settings.connections} connections")
    print(f"{'':24}{'seconds':>9}{'CPU':>8}{'granules/s':>12}")
    for name, (wall, cpu) in rows.items():
        print(f"{name:24}{wall:9.2f}{cpu:8.2f}{count / wall:12.1f}")
    slower = max(rows[name][0] for name in ("download alone", "decode + encode alone"))
    for name in ("ingest", "both at once, apart"):
        print(f"{name} / slower half {rows[name][0] / slower:.2f}")
    for share in (2, 1):
        part = config(str(folder / f"part{share}.zarr"), count // share, pixels)
        command = [sys.executable, __file__, "--alone", part.model_dump_json()]
        print(f"peak memory of {count // share} granules, all processes: {peak_megabytes(command):.0f} MB")


if __name__ == "__main__":
    main()
