"""Every deployment of a preset: its name, what it is for, when it runs, and what it must not run beside."""

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.schedules import Cron
from pydantic import BaseModel

from core.config import EvaluateConfig, ForecastConfig, PipelineConfig
from core.training.renewal import latest
from deployments.pools import CPU_POOL, GPU_POOL
from flows.archive import check_archive, check_fresh
from flows.episodes import episodes
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.monitor import monitor
from flows.nowcast import nowcast
from flows.pipeline import pipeline
from flows.promote import promote
from flows.sweep import sweep
from flows.train import train
from flows.verify import verify

# A schedule that comes while the last run is at work leaves the rest to the one after; what must not be lost waits.
SKIP, WAIT = ConcurrencyLimitStrategy.CANCEL_NEW, ConcurrencyLimitStrategy.ENQUEUE
# How long a run may take before it is cancelled: far above what it takes, since the cure loses work.
MINUTES_15, HOURS_2, HOURS_12, DAYS_2, DAYS_14 = (
    timedelta(minutes=15), timedelta(hours=2), timedelta(hours=12), timedelta(days=2), timedelta(days=14)
)  # fmt: skip
OLDEST_FRAME_MINUTES = 60  # of a nowcast, where the config has no word on it and slots are short
EXAMPLE_GRID = ["train.inner.steps=1,3,5"]  # what the form of a sweep begins with
SILENT_SLOTS = 4  # as many slots, none of them complete, make an archive stale
SLUG = "fewcast"  # by which a schedule of ours is told from those that an operator adds


@dataclass(frozen=True)
class Entry:
    """One deployment."""

    flow: Flow[..., Any]
    name: str
    description: str
    parameters: dict[str, Any]
    limit: timedelta
    collision: ConcurrencyLimitStrategy = WAIT
    cron: str = ""  # UTC
    pool: str = CPU_POOL
    after: str = ""  # started by each completed run of this deployment
    on_growth_of: str = ""  # started when frames have come into this archive
    on_silence_of: str = ""  # started when no newer slot has become complete in it, for `silence`
    silence: timedelta = timedelta(0)
    prompt: bool = False  # its process starts in half the time: see `deployment`

    @property
    def path(self) -> str:
        return f"{self.flow.name}/{self.name}"

    @property
    def limit_tag(self) -> str:
        hours, minutes = divmod(int(self.limit.total_seconds()) // 60, 60)
        return "limit-" + (f"{hours}h" if hours else "") + (f"{minutes}min" if minutes else "")

    @property
    def starts(self) -> str:
        """What starts it, in words."""
        ways = [
            f"at {self.cron} UTC" * bool(self.cron),
            f"after {self.after}" * bool(self.after),
            f"when frames have come into {self.on_growth_of}" * bool(self.on_growth_of),
            f"when no newer slot is complete after {self.silence}" * bool(self.on_silence_of),
        ]
        return ", ".join(filter(None, ways)) or "by hand"

    def deployment(self, working_dir: str = "") -> RunnerDeployment:
        """As prefect takes it: to be served by this process, or (with a folder to run in) for a worker of its pool.

        A worker that is given a command starts it at once. Given none, it starts a process that prepares a workspace,
        which nothing here needs, and that becomes the run. But if a run with a command is killed, the worker imports
        its flow to look for hooks, torch and all, and keeps it: hence only for what must be prompt.
        """
        pool: dict[str, Any] = {}
        if working_dir:
            command = {"command": shlex.join([sys.executable, "-m", "prefect.engine"])} if self.prompt else {}
            pool = {"work_pool_name": self.pool, "job_variables": {"working_dir": working_dir, **command}}
        made = self.flow.to_deployment(
            name=self.name,
            description=f"{self.description} Starts {self.starts}; cancelled after {self.limit}.",
            tags=[self.flow.name, self.limit_tag],
            parameters=self.parameters,
            schedule=Cron(self.cron, timezone="UTC", slug=SLUG) if self.cron else None,
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=self.collision),
            entrypoint_type=EntrypointType.MODULE_PATH,
            **pool,
        )
        return cast(RunnerDeployment, made)


def entries(config: PipelineConfig) -> list[Entry]:
    """All deployments of one preset; what follows a live satellite starts by itself, everything can be by hand."""
    live = config.ingest.source.startswith("s3://")
    name, archive = config.name, config.ingest.archive
    minutes = min(config.ingest.cadence_minutes, 60)  # as far as one cron line of minutes goes
    silence = _silence(config)
    calm = max(minutes, 10)
    fallback = f"{calm // 2}-59/{calm} * * * *"  # should an event be lost
    tracking = _values(config.tracking)
    scored = _newest(config) if live else config.evaluate
    again = " Once it has ended and episodes have come: anew from the champion, in a folder beside it." if live else ""
    made = [
        Entry(
            pipeline, name, f"Granules to scorecard with the preset `{name}`; each stage skips what is done.",
            {"config": _values(config)}, DAYS_14, pool=GPU_POOL,
        ),
        Entry(
            ingest, f"{name}-backfill", f"All slots of the config from `{config.ingest.source}`, oldest first.",
            {"config": _values(config.ingest)}, DAYS_14,
        ),
        Entry(
            episodes, name, f"New episodes from `{config.episodes.archive}`; those that are there stay as they are.",
            {"config": _values(config.episodes)}, HOURS_12, cron="15 1 * * *" if live else "",
        ),
        Entry(
            train, name, f"Meta-train in `{config.train.run}`, or go on there.{again}",
            {"config": _values(config.train), "tracking": tracking, "renew": live}, DAYS_2,
            cron="0 3 * * 0" if live else "", pool=GPU_POOL,
        ),
        Entry(
            evaluate, name, f"Score `{scored.run}` beside the baselines.",
            {"config": _values(scored), "tracking": tracking}, HOURS_12, pool=GPU_POOL,
            after=f"{train.name}/{name}",
        ),
        Entry(
            promote, name, "Make the newest candidate the champion, if it beats it on validation.",
            {"tracking": tracking}, HOURS_2, after=f"{evaluate.name}/{name}",
        ),
        Entry(
            sweep, name, "Train and validate every combination of some settings; the episodes must be there.",
            {"config": _values(config), "grid": EXAMPLE_GRID}, DAYS_14, pool=GPU_POOL,
        ),
        Entry(
            nowcast, name, f"Forecast from the newest frames of `{config.forecast.archive}`.",
            {"config": _values(_operational(config) if live else config.forecast), "tracking": tracking}, MINUTES_15,
            on_growth_of=archive if live else "", cron=fallback if live else "", prompt=True,
        ),
        Entry(
            check_archive, name, f"Read every frame of `{archive}` and compare it with its checksums.",
            {"url": archive}, HOURS_12, cron="30 2 * * *" if live else "",
        ),
        Entry(
            verify, name, f"Score the forecasts in `{config.forecast.output}` whose truth has come.",
            {"config": _values(config.forecast)}, HOURS_2, cron="20 * * * *" if live else "",
        ),
    ]  # fmt: skip
    if live:
        latest = config.ingest.model_copy(update={"mode": "latest"})
        made += [
            Entry(
                monitor, name, f"Write what a monitoring system reads to `{config.monitor.folder}`.",
                {"config": _values(config.monitor)}, MINUTES_15, collision=SKIP, cron="*/5 * * * *", prompt=True,
            ),
            Entry(
                ingest, f"{name}-latest", f"The newest slots of `{config.ingest.source}`, and late ones.",
                {"config": _values(latest)}, HOURS_2, collision=SKIP, cron=f"*/{minutes} * * * *",
                prompt=True,
            ),
            Entry(
                check_fresh, name, f"Say since when no slot of `{archive}` is complete, and why; red if it is stale.",
                {"config": _values(latest), "limit_minutes": silence}, MINUTES_15,
                on_silence_of=archive, silence=timedelta(minutes=silence),
            ),
        ]  # fmt: skip
    return made


def _newest(config: PipelineConfig) -> EvaluateConfig:
    """The run that the schedule of training finished last, which may be one beside the config's."""
    own = config.evaluate.run == config.train.run
    return config.evaluate.model_copy(update={"run": latest(config.train.run)}) if own else config.evaluate


def _silence(config: PipelineConfig) -> int:
    """Minutes without a complete slot that make an archive stale."""
    return SILENT_SLOTS * config.ingest.cadence_minutes


def _operational(config: PipelineConfig) -> ForecastConfig:
    """By the champion rather than the newest training, and not from frames that no one cares for any more."""
    own = config.forecast.run == config.train.run
    run = f"models:/{config.tracking.experiment}@champion" if own else config.forecast.run
    age = config.forecast.max_age_minutes or max(OLDEST_FRAME_MINUTES, _silence(config))
    return config.forecast.model_copy(update={"run": run, "max_age_minutes": age})


def catalogue(configs: Iterable[PipelineConfig]) -> list[Entry]:
    """The deployments of several presets."""
    return [entry for config in configs for entry in entries(config)]


def _values(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")
