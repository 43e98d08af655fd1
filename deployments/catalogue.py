"""Every deployment of a preset: its name, what it is for, when it runs, and what it must not run beside."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.schedules import Cron
from pydantic import BaseModel

from core.config import PipelineConfig
from deployments.pools import CPU_POOL, GPU_POOL
from flows.archive import check_archive
from flows.episodes import episodes
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.nowcast import nowcast
from flows.pipeline import pipeline
from flows.promote import promote
from flows.train import train

# A schedule that comes while the last run is at work leaves the rest to the one after; what a person starts waits.
SKIP, WAIT = ConcurrencyLimitStrategy.CANCEL_NEW, ConcurrencyLimitStrategy.ENQUEUE


@dataclass(frozen=True)
class Entry:
    """One deployment."""

    flow: Flow[..., Any]
    name: str
    description: str
    parameters: dict[str, Any]
    collision: ConcurrencyLimitStrategy = WAIT
    cron: str = ""  # UTC
    pool: str = CPU_POOL
    tags: list[str] = field(default_factory=list)

    def deployment(self, working_dir: str = "") -> RunnerDeployment:
        """As prefect takes it: to be served by this process, or (with a folder to run in) for a worker of its pool."""
        pool: dict[str, Any] = {}
        if working_dir:
            pool = {"work_pool_name": self.pool, "job_variables": {"working_dir": working_dir}}
        made = self.flow.to_deployment(
            name=self.name,
            description=self.description,
            tags=[self.flow.name, *self.tags],
            parameters=self.parameters,
            schedule=Cron(self.cron, timezone="UTC", slug="fewcast") if self.cron else None,
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=self.collision),
            entrypoint_type=EntrypointType.MODULE_PATH,
            **pool,
        )
        return cast(RunnerDeployment, made)


def entries(config: PipelineConfig) -> list[Entry]:
    """All deployments of one preset; what follows a live satellite is scheduled, everything can be started by hand."""
    live = config.ingest.source.startswith("s3://")
    name = config.name
    minutes = min(max(config.ingest.cadence_minutes, 10), 60)
    half_way = _every(minutes, minutes // 2)
    tracking = _values(config.tracking)
    made = [
        Entry(
            pipeline, name, f"Granules to scorecard with the preset `{name}`; each stage skips what is done.",
            {"config": _values(config)}, pool=GPU_POOL,
        ),
        Entry(
            ingest, f"{name}-backfill", f"All slots of the config from `{config.ingest.source}`, oldest first.",
            {"config": _values(config.ingest)},
        ),
        Entry(
            episodes, name, f"New episodes from `{config.episodes.archive}`; those that are there stay as they are.",
            {"config": _values(config.episodes)}, cron="15 1 * * *" if live else "",
        ),
        Entry(
            train, name, f"Meta-train in `{config.train.run}`, or go on there.",
            {"config": _values(config.train), "tracking": tracking},
            cron="0 3 * * 0" if live else "", pool=GPU_POOL,
        ),
        Entry(
            evaluate, name, f"Score `{config.evaluate.run}` beside the baselines.",
            {"config": _values(config.evaluate), "tracking": tracking}, pool=GPU_POOL,
        ),
        Entry(
            promote, name, "Make the newest candidate the champion, if it beats it on validation.",
            {"tracking": tracking}, cron="0 5 * * *" if live else "",
        ),
        Entry(
            nowcast, name, f"Forecast from the newest frames of `{config.forecast.archive}`.",
            {"config": _values(config.forecast), "tracking": tracking}, collision=SKIP, pool=GPU_POOL,
            cron=half_way if live else "",
        ),
        Entry(
            check_archive, name, f"Read every frame of `{config.ingest.archive}` and compare it with its digest.",
            {"url": config.ingest.archive}, cron="30 2 * * *" if live else "",
        ),
    ]  # fmt: skip
    if live:
        latest = config.ingest.model_copy(update={"mode": "latest"})
        made.append(
            Entry(
                ingest, f"{name}-latest", f"The newest slots of `{config.ingest.source}`, and late ones.",
                {"config": _values(latest)}, collision=SKIP, cron=_every(minutes),
            )
        )  # fmt: skip
    return made


def catalogue(configs: Iterable[PipelineConfig]) -> list[Entry]:
    """The deployments of several presets."""
    return [entry for config in configs for entry in entries(config)]


def _every(minutes: int, after: int = 0) -> str:
    """Every so many minutes of the hour, some minutes after the full slot."""
    return f"{after}-59/{minutes} * * * *"


def _values(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json")
