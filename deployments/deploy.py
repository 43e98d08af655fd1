"""Every deployment: `python -m deployments.deploy` registers them and runs what is scheduled or started by hand."""

import argparse
import sys
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import cast

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.settings import PREFECT_API_URL

from core.config import PipelineConfig, load
from core.errors import FewcastError
from flows.cli import PRESETS
from flows.ingest import ingest
from flows.pipeline import pipeline

# The archive has one writer; a schedule that comes too early leaves the slot to the next one.
ONE_WRITER = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)


def ingest_deployment(config: PipelineConfig) -> RunnerDeployment:
    """The newest slots of a real satellite, every time that one is due."""
    deployment = ingest.to_deployment(
        name=f"{config.name}-latest",
        description=f"The newest slots of `{config.ingest.source}` into `{config.ingest.archive}`.",
        tags=["ingest", config.name],
        parameters={"config": config.ingest.model_copy(update={"mode": "latest"}).model_dump(mode="json")},
        interval=timedelta(minutes=config.ingest.cadence_minutes),
        concurrency_limit=ONE_WRITER,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(RunnerDeployment, deployment)


def pipeline_deployment(config: PipelineConfig) -> RunnerDeployment:
    """All stages of a preset, started by hand, its form filled with every value."""
    deployment = pipeline.to_deployment(
        name=config.name,
        description=f"Granules to scorecard with the preset `{config.name}`; each stage skips what is done.",
        tags=["pipeline", config.name],
        parameters={"config": config.model_dump(mode="json")},
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(RunnerDeployment, deployment)


def deployments(configs: Iterable[PipelineConfig]) -> list[RunnerDeployment]:
    """A manual pipeline for every config; a scheduled ingest where the source is a live bucket."""
    configs = list(configs)
    scheduled = [ingest_deployment(config) for config in configs if config.ingest.source.startswith("s3://")]
    return [*scheduled, *(pipeline_deployment(config) for config in configs)]


def main() -> int:
    """Serve the deployments of all presets, or of the configs given, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=__doc__)
    parser.add_argument("--config", type=Path, action="append", help="serve these TOML files instead of the presets")
    options = parser.parse_args()
    try:
        if not PREFECT_API_URL.value():
            raise FewcastError(
                "deployments need a Prefect server",
                found="no PREFECT_API_URL",
                mend="run `fewcast ui` beside this and set PREFECT_API_URL to its address with /api behind it",
            )
        chosen = options.config or sorted(PRESETS.glob("*.toml"))
        serve(*deployments(load(path) for path in chosen))
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
