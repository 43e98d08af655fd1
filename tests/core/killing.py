"""An ingest that is killed again and again, at moments drawn from the time that it takes when nobody disturbs it."""

import itertools
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.archive import Archive, Status
from core.config import IngestConfig

# Status is written after each frame, where a long ingest does so after many: a kill may fall between any two of them.
CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from core.config import IngestConfig
from core.ingest import ingest, run
from core.satellite import courier
run.RECORD_AFTER_FRAMES = 1
settings = IngestConfig.model_validate_json(Path(sys.argv[1]).read_text())
if settings.source.startswith("s3://"):  # as it fetches from the 32nd granule on
    courier.STARTS_AFTER = 1
    courier.COURIER._count(settings)
    assert courier.COURIER.started.wait(60)
print("ready", flush=True)
ingest(settings, clock=lambda: datetime(2024, 3, 2, 12, tzinfo=UTC))
"""


def kill_and_finish(
    settings: IngestConfig, folder: Path, rounds: int, frames: int, contents: Callable[[str], dict[str, bytes]]
) -> tuple[list[dict[str, bytes]], int, int]:
    """Kill `rounds` ingests of so many frames, with a fresh archive after each that ends, and let the last one end.

    Returns what each archive holds, first that of an undisturbed ingest; the number of kills; and how many of them
    left an archive with some of the frames recorded. Where none has, the kills go on for a while: a sample has few.
    """
    rng, ended = random.Random(rounds), []
    archives = (f"{settings.archive}-{number}" for number in itertools.count())
    url, begin = next(archives), 0.0
    with _start(settings, url, folder) as child:
        begin = time.monotonic()
        assert child.wait() == 0
    seconds = time.monotonic() - begin
    kills = partial = 0
    while kills < rounds or (not partial and kills < rounds + 20):
        if _recorded(url) == frames:
            ended.append(contents(url))
            url = next(archives)
        with _start(settings, url, folder) as child:
            time.sleep(rng.uniform(0, seconds))
            child.kill()
        kills += 1
        found = _recorded(url)
        partial += 0 < found < frames
        seconds *= 0.9 if found == frames else 1.1 if not found else 1  # a busy machine is slow by turns
    with _start(settings, url, folder) as child:
        assert child.wait() == 0
    return [*ended, contents(url)], kills, partial


def _start(settings: IngestConfig, url: str, folder: Path) -> "subprocess.Popen[str]":
    """A child that is about to ingest."""
    (folder / "config.json").write_text(settings.model_copy(update={"archive": url}).model_dump_json())
    command = [sys.executable, "-c", CHILD, str(folder / "config.json")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert child.stdout is not None
    child.stdout.readline()
    return child


def _recorded(url: str) -> int:
    """How many frames an archive serves, each of which can be read."""
    if not Archive.exists(url):
        return 0
    archive = Archive.open(url)
    complete = archive.status == Status.COMPLETE
    for slot in np.flatnonzero(complete.any(1)):
        for kind in archive.kinds:
            archive.read(kind, [int(slot)])
    return int(complete.sum())
