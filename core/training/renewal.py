"""Training again as a store grows: each time in a folder of its own, from the prior that serves."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from core.config import TrainConfig
from core.episodes.store import EpisodeStore
from core.links import point
from core.meta import checkpoint
from core.report import Report, Silent
from core.training.run import ended_by


def latest(run: str) -> str:
    """The link to the newest finished run: `run` itself, or one that followed it."""
    return f"{run}.latest"


def renewed(
    config: TrainConfig,
    champion: Callable[[], str],
    now: datetime,
    *,
    report: Report | None = None,
) -> TrainConfig:
    """The config of the training that is due: the rule of a schedule.

    The newest of the runs (`config.run`, and `RUN.YYYYMMDDTHHMMZ` that followed it) goes on until it has ended. From
    then on, if the store has other episodes than that run saw, a new one is due, in a folder named by `now` and forked
    from the run that `champion` names (empty: none, it starts afresh), which is asked until there is a checkpoint.
    Otherwise nothing is: training the newest run finds that it has ended.
    """
    report = report or Silent()
    runs = _runs(Path(config.run))
    newest, found = runs[-1], checkpoint.load_latest(runs[-1])
    if found is not None and (ended := ended_by(config, found)):
        if found.meta["episodes_digest"] == EpisodeStore.open(config.episodes).digest:
            report.message(f"{newest} ended by {ended}, and no episode has come into {config.episodes} since")
        else:
            newest, found = runs[0].with_name(f"{runs[0].name}.{now:%Y%m%dT%H%MZ}"), None
            report.message(f"{config.episodes} has grown since {runs[-1]} was trained: {newest} is due")
    fork = config.fork
    if newest != runs[0]:  # one that has begun keeps to what it began from, whoever is champion since
        fork = found.meta["config"]["fork"] if found else champion()
    return config.model_copy(update={"run": str(newest), "fork": fork})


def point_to_latest(first: str, run: str) -> None:
    """Let the link lead to a run beside it, at once for whoever follows it meanwhile."""
    point(Path(latest(first)), Path(run).name)


def _runs(first: Path) -> list[Path]:
    """The first run and those that followed it, oldest first."""
    named = re.compile(re.escape(first.name) + r"\.\d{8}T\d{4}Z")
    followed = [path for path in first.parent.glob(f"{first.name}.*") if named.fullmatch(path.name)]
    return [first, *sorted(followed)]
