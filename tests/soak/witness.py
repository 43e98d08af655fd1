"""What came of the soak, read from outside: the archive, the forecasts, the runs and their logs, and the memory."""

import json
import re
import statistics
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import xarray as xr

from core.archive import Archive, validate
from core.archive.layout import Status
from core.archive.validation import Fault, Problem
from core.config import load
from core.errors import FewcastError
from core.forecast.folder import SUPERSEDED
from deployments.pools import CPU_POOL, GPU_POOL
from deployments.stack import Stack
from deployments.stack.cure import RUN_ID
from deployments.stack.services import Plan

MEMORY_LIMIT, GROWTH_LIMIT = 3e9, 0.25


class Witness:
    """Reads the state of a stack that runs, as an operator would."""

    def __init__(self, config: Path, folder: Path, plan: Plan) -> None:
        self.config, self.folder, self.plan = load(config), folder, plan
        credentials = (plan.auth.user, plan.auth.password) if plan.auth else None
        self.api = httpx.Client(base_url=f"{plan.url('prefect')}/api", auth=credentials, timeout=60)

    # -- what a person does

    def push(self, deployment: str) -> None:
        """Start a deployment by hand; a server that is away just now is no matter, the next slot asks again."""
        with suppress(httpx.HTTPError, KeyError, ValueError):
            found = self.api.get(f"/deployments/name/{deployment}", timeout=10).json()
            asked = {"state": {"type": "SCHEDULED"}}
            self.api.post(f"/deployments/{found['id']}/create_flow_run", json=asked, timeout=10)

    def wait_for_a_nowcast(self, patience: float, push: bool) -> None:
        self._wait(lambda: bool(self.forecasts()), patience, push, "no nowcast comes")

    def wait_until_settled(self, satellite: Any, patience: float, push: bool) -> None:
        """Until what came whole is complete, the newest start has its forecast, and nothing is at work."""

        def settled() -> bool:
            complete = self.complete()
            return {*satellite.whole()} <= complete and max(self.starts(complete)) in self.forecasts()

        self._wait(settled, patience, push, "")
        self._pause()
        self._wait(lambda: not self._count("RUNNING", "PENDING"), 120, False, "")
        self._wait(lambda: not self.unexplained(self.complete()), 30, False, "")  # logs come after a run's end

    def _pause(self) -> None:
        """Hand out no more runs, so that what is looked at stands still."""
        for pool in (CPU_POOL, GPU_POOL):
            self._wait(partial(self._paused, pool), 120, False, f"{pool} cannot be paused")  # a server may be busy

    def _paused(self, pool: str) -> bool:
        self.ask(f"/work_pools/{pool}", {"is_paused": True}, "PATCH")
        return True

    def _wait(self, condition: Any, patience: float, push: bool, complaint: str) -> None:
        deadline, pushed = time.monotonic() + patience, time.monotonic()
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except (OSError, FewcastError, httpx.HTTPError):  # the archive is not there yet, or S3 is away
                pass
            if push and time.monotonic() - pushed > 15:
                self.push("ingest/sky-latest")
                pushed = time.monotonic()
            time.sleep(1)
        if complaint:
            raise TimeoutError(complaint)

    # -- what is there

    def complete(self) -> set[datetime]:
        """Slots that the archive serves as complete."""
        archive = Archive.open(self.config.ingest.archive)
        good = np.flatnonzero((archive.status == Status.COMPLETE).all(axis=1))
        return {archive.times[slot].astype("M8[s]").item().replace(tzinfo=UTC) for slot in good}

    def starts(self, complete: set[datetime]) -> set[datetime]:
        """Slots from which a forecast could start: they and the input frames before them are complete."""
        minute, frames = timedelta(minutes=self.config.ingest.cadence_minutes), self.config.episodes.input_frames
        return {time for time in complete if all(time - n * minute in complete for n in range(frames))}

    def forecasts(self) -> set[datetime]:
        folder = self.folder / self.config.forecast.output
        stamps = [path.name.removeprefix("forecast_").removesuffix(".zarr") for path in folder.glob("forecast_*.zarr")]
        return {datetime.strptime(stamp, "%Y%m%dT%H%MZ").replace(tzinfo=UTC) for stamp in stamps}

    def superseded(self) -> set[datetime]:
        """Starts of which some run's log, or the forecasts' folder, says that a newer one came before them.

        What a run logs while the server is away, or just before it is killed, is lost; the folder's word is not.
        """
        words = " ".join(self._messages("superseded by"))
        with suppress(OSError):
            words += " " + " ".join(json.loads((self.folder / self.config.forecast.output / SUPERSEDED).read_text()))
        named = re.findall(r"(\d{8}T\d{4}Z)(?=[,\s]|$)", words)
        return {datetime.strptime(stamp, "%Y%m%dT%H%MZ").replace(tzinfo=UTC) for stamp in named}

    def unexplained(self, complete: set[datetime]) -> set[datetime]:
        """Starts after the first forecast that have none, and no word that a newer one superseded them."""
        forecasts = self.forecasts()
        return {start for start in self.starts(complete) - forecasts - self.superseded() if start >= min(forecasts)}

    def _messages(self, word: str) -> list[str]:
        """Log lines with a word in them. Prefect's own search for text fails on SQLite before 3.44.

        A run whose server answers late sends its lines once more: those of one run and one microsecond are one.
        """
        found: list[tuple[str, str, str]] = []
        while True:
            page = self.ask("/logs/filter", {"limit": 200, "offset": len(found), "sort": "TIMESTAMP_ASC"})
            found += [(entry["flow_run_id"], entry["timestamp"], entry["message"]) for entry in page]
            if len(page) < 200:
                return [message for _, _, message in dict.fromkeys(found) if word in message]

    def _count(self, *states: str) -> int:
        asked = {"flow_runs": {"state": {"type": {"any_": list(states)}}}}
        return int(self.ask("/flow_runs/count", asked))

    def ask(self, path: str, body: dict[str, Any] | None, method: str = "POST") -> Any:
        """The server's answer; SQLite makes it answer 503, or late, while it is busy."""
        for last in (False,) * 9 + (True,):
            try:
                answer = self.api.request(method, path, json=body)
                if answer.is_success or last:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            except httpx.TransportError:
                if last:
                    raise
            time.sleep(2)

    # -- what is wrong

    def problems(self, satellite: Any) -> list[str]:
        complete, forecasts = self.complete(), self.forecasts()
        wrong = [
            f"{time:%FT%TZ} was published whole and is not complete"
            for time in satellite.whole()
            if time not in complete
        ]
        unexplained = sorted(self.unexplained(complete))
        wrong += [f"{time:%FT%TZ} has no nowcast and no word that it was superseded" for time in unexplained]
        baseless = sorted(forecasts - self.starts(complete))
        wrong += [f"a forecast from {time:%FT%TZ}, where no frames are" for time in baseless]
        for path in sorted((self.folder / self.config.forecast.output).glob("forecast_*.zarr")):
            members = xr.open_zarr(path, consolidated=False).sizes["member"]
            if members != self.config.forecast.members:
                wrong.append(f"{path} has {members} members")
        made = [message for message in self._messages("made:") if message.startswith("made:")]
        wrong += [f"logged twice: {message}" for message in {*made} if made.count(message) > 1]
        if running := self._count("RUNNING", "PENDING"):
            wrong.append(f"{running} runs have not ended")
        return wrong + [f"the archive: {problem}" for problem in self._problems_of_the_archive(satellite)]

    def _problems_of_the_archive(self, satellite: Any) -> list[Problem]:
        """What the nightly check finds, but for what the satellite did.

        A slot of this sky is as short as the times of real granules may differ from their keys, so that the slot before
        under a slot's key passes an ingest, and is found here.
        """
        whole = {np.datetime64(time.replace(tzinfo=None), "s") for time in satellite.whole()}
        found = validate(self.config.ingest.archive).problems
        return [problem for problem in found if problem.fault != Fault.FROZEN or problem.time in whole]

    def summary(self, satellite: Any) -> str:
        complete, forecasts = self.complete(), self.forecasts()
        states = ", ".join(
            f"{self._count(state)} {state.lower()}" for state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        )
        return (
            f"{satellite.published} slots, {len(satellite.whole())} published whole, {len(complete)} complete, "
            f"{len(forecasts)} nowcasts, {len(self.superseded() - forecasts)} superseded; runs: {states}"
        )


class Memory:
    """Proportional set size of the stack's services, with what they start but without the flow runs, which end."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.samples: list[float] = []

    def sample(self) -> None:
        """A sample of a moment at which a service is down tells nothing: it is left out."""
        total, services = 0.0, self.stack.running()
        for entry in services.values():
            for process in _family(entry.pid):
                try:
                    if RUN_ID not in process.environ():
                        total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
        if len(services) >= 7:
            self.samples.append(total)

    @property
    def summary(self) -> str:
        third = max(1, len(self.samples) // 3)
        first, last = (
            statistics.median(self.samples[third : 2 * third] or self.samples),
            statistics.median(self.samples[-third:]),
        )
        most = max(self.samples)
        return f"{first / 1e9:.2f} GB in the middle, {last / 1e9:.2f} GB at the end, {most / 1e9:.2f} GB at most"

    def problems(self, slots: int) -> list[str]:
        """Too much, or (over a run long enough to tell) more at the end than in the middle."""
        wrong = [f"{max(self.samples) / 1e9:.2f} GB of memory"] if max(self.samples) > MEMORY_LIMIT else []
        third = max(1, len(self.samples) // 3)
        middle, end = statistics.median(self.samples[third : 2 * third]), statistics.median(self.samples[-third:])
        if slots >= 50 and end > (1 + GROWTH_LIMIT) * middle:
            wrong.append(f"memory grew from {middle / 1e9:.2f} to {end / 1e9:.2f} GB")
        return wrong


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
