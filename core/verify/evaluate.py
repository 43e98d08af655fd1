"""A trained run and held-out episodes to a scorecard."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from core.config import EvaluateConfig
from core.episodes.fanout import batches, fan_out
from core.episodes.loader import Loader, Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.report import Report, Silent
from core.verify import tables
from core.verify.baselines import DressedPersistence, last_frame
from core.verify.pictures import draw_pictures
from core.verify.rows import DRESSED, LearnedRow, episode_predictions, episode_seed, learned_rows, open_model
from core.verify.scorecard import Settings, scorecard_table
from core.verify.statistics import window_statistics

_FORMAT = 1  # raise it when the same inputs would give another scorecard
_DRESSING_EPISODES = 128
_EPISODES_A_CALL = 4


@dataclass(frozen=True)
class Scorecard:
    """What an evaluation leaves: the table, and the files beside it."""

    url: str
    parquet: str
    figures: tuple[str, ...]
    skipped: bool
    table: pd.DataFrame = field(repr=False)
    markdown: str = field(repr=False)
    terminal: str = field(repr=False)  # the compact table for the end of a command


def evaluate(config: EvaluateConfig, *, report: Report | None = None, client: Any = None) -> Scorecard:
    """Score a run, adapted and not, beside persistence, on the held-out episodes of `config.split`.

    Every row forecasts the same windows. Statistics are per window, so the result does not depend on how the episodes
    are spread over `client` (a Dask cluster; None: this process). The same inputs are scored once: a second call
    returns what is there. Raises FewcastError for a run or a store that is missing, or that do not fit.
    """
    report = report or Silent()
    store = EpisodeStore.open(config.episodes)
    model = open_model(config.run)
    ids = store.ids(config.split)
    if len(ids) == 0:
        raise FewcastError(
            f"the episode store {config.episodes} has no {config.split} episodes",
            found=f"splits {sorted(set(store.catalog['split']))}",
            mend="build them, or evaluate another split with --set evaluate.split=...",
        )
    if tuple(model.spec.channels) != store.channels or model.spec.target_frames != store.spec.target_frames:
        raise FewcastError(
            f"the run {config.run} does not fit the episodes {config.episodes}",
            found=f"channels {model.spec.channels} and {model.spec.target_frames} target frames in the run, "
            f"{store.channels} and {store.spec.target_frames} in the store",
            mend="evaluate on episodes with the channels and frames of the run",
        )
    folder = Path(config.scorecard)
    inputs = _inputs(config, model.version, store.digest)
    if (done := _finished(folder, inputs)) is not None:
        report.message(f"scorecard {folder} is up to date with its run and episodes: skipped")
        return done
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inputs.json").unlink(missing_ok=True)
    rows = learned_rows(model, config.run)
    dressed = fit_dressing(store, config.seed)
    score = partial(score_episodes, config.episodes, dressed, rows, config.members, config.seed)
    calls = [[int(i) for i in part] for part in batches(list(ids), _EPISODES_A_CALL)]
    if client is None:
        frames = []
        for done_calls, call in enumerate(calls, 1):
            frames.append(score(call))
            report.progress(done_calls, len(calls), "forecasts scored")
    else:
        frames = fan_out(score, calls, client=client, report=report, note="forecasts scored")
    windows = pd.concat(frames, ignore_index=True)
    pairs = [(row.name, DRESSED) for row in rows] + [(row.name, rows[0].name) for row in rows[1:]]
    settings = Settings(config.bootstrap_samples, config.bootstrap_hours, config.seed)
    scales = dict(zip(store.channels, store.normalisation.std.tolist(), strict=True))
    table = scorecard_table(windows, settings, pairs, scales)
    windows.to_parquet(folder / "windows.parquet", index=False)
    table.to_parquet(folder / "scorecard.parquet", index=False)
    (folder / "scorecard.md").write_text(tables.markdown(table, _notes(config, model, store), tables.verdicts(table)))
    draw_pictures(folder, windows, table, store, partial(_one_episode, config, dressed, rows), report)
    (folder / "inputs.json").write_text(json.dumps(inputs, indent=1))  # last: it says that all the rest is whole
    finished = _finished(folder, inputs)
    assert finished is not None
    return Scorecard(**{**finished.__dict__, "skipped": False})


def score_episodes(
    url: str, dressed: np.ndarray, rows: list[LearnedRow], members: int, seed: int, ids: list[int]
) -> pd.DataFrame:
    """Window statistics of some episodes: one row per learner, window, lead time and channel. Picklable in and out."""
    store = EpisodeStore.open(url)
    batch = Loader(store, split="train").load(ids)
    frames = []
    for e, episode in enumerate(ids):
        entry = store.catalog.iloc[episode]
        support, query = episode_of(batch.support, e), episode_of(batch.query, e)
        forecasts = episode_predictions(
            support, query, store.spec, torch.from_numpy(dressed), rows, members, episode_seed(seed, episode)
        )
        for name, prediction in forecasts:
            try:
                stats = window_statistics(prediction, query.y, query.mask)
            except ValueError as error:
                raise FewcastError(
                    f"{name} cannot be scored on episode {episode}",
                    found=str(error),
                    mend="the run has diverged: train it again with a smaller learning_rate or inner.rate",
                ) from error
            frames.append(_as_frame(stats, name, entry, query.init_time, store))
    return pd.concat(frames, ignore_index=True)


def episode_of(windows: Windows, e: int) -> Windows:
    """The windows (N, ...) of one episode of a batch."""
    return Windows(windows.x[e], windows.y[e], windows.mask[e], windows.init_time[e])


def fit_dressing(store: EpisodeStore, seed: int) -> np.ndarray:
    """Quantiles (Q, L*C) of persistence's errors on training episodes spread evenly over the split."""
    ids = store.ids("train")
    ids = ids[np.linspace(0, len(ids) - 1, min(len(ids), _DRESSING_EPISODES)).astype(int)]
    loader = Loader(store, split="train")

    def windows() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for episode in ids:
            query = loader.load([int(episode)]).query
            x, y, mask = query.x[0], query.y[0], query.mask[0]
            yield last_frame(x, len(store.channels), store.spec.target_frames, *y.shape[-2:]), y, mask

    errors = DressedPersistence.fit(windows(), torch.Generator().manual_seed(seed)).errors
    return errors.numpy()


def _as_frame(
    stats: dict[str, np.ndarray], name: str, entry: pd.Series, init_times: np.ndarray, store: EpisodeStore
) -> pd.DataFrame:
    n, outputs = stats["count"].shape
    channels = len(store.channels)
    keys = {
        "learner": name,
        "split": entry["split"],
        "holdout": entry["holdout"],
        "episode": int(entry["id"]),
        "window": np.repeat(np.arange(n), outputs),
        "tile": f"r{entry['row']}c{entry['col']}",
        "init_time": np.repeat(init_times, outputs),
        "lead_time": np.tile(np.repeat(store.lead_minutes, channels), n),
        "channel": np.tile(store.channels, n * outputs // channels),
    }
    return pd.DataFrame(keys | {statistic: values.ravel() for statistic, values in stats.items()})


def _one_episode(
    config: EvaluateConfig, dressed: np.ndarray, rows: list[LearnedRow], episode: int
) -> tuple[Windows, dict[str, Any]]:
    """The query windows of an episode, and every row's forecast of them."""
    store = EpisodeStore.open(config.episodes)
    batch = Loader(store, split="train").load([episode])
    support, query = episode_of(batch.support, 0), episode_of(batch.query, 0)
    seed = episode_seed(config.seed, episode)
    errors = torch.from_numpy(dressed)
    return query, dict(episode_predictions(support, query, store.spec, errors, rows, config.members, seed))


def _notes(config: EvaluateConfig, model: Any, store: EpisodeStore) -> list[str]:
    return [
        f"Run {config.run} (step {model.step}, version {model.version}), episodes {config.episodes} "
        f"(version {store.version}, digest {store.digest[:16]}), {config.members} members.",
        "Scores are in standardised units: divided by each channel's std over the training split. "
        f"Intervals are 95 %, from {config.bootstrap_samples} resamples of blocks of tile x "
        f"{config.bootstrap_hours:g} hours. Undefined metrics are left out, not guessed.",
    ]


def _inputs(config: EvaluateConfig, version: str, digest: str) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"scorecard", "run", "episodes"})
    text = json.dumps([_FORMAT, settings, version, digest], sort_keys=True)
    return {"digest": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), "run": version, "episodes": digest,
            "settings": settings}  # fmt: skip


def _finished(folder: Path, inputs: dict[str, Any]) -> Scorecard | None:
    """The scorecard in the folder, if it was made of just these inputs and is whole."""
    try:
        if json.loads((folder / "inputs.json").read_text())["digest"] != inputs["digest"]:
            return None
        table = pd.read_parquet(folder / "scorecard.parquet")
        text = (folder / "scorecard.md").read_text()
    except (OSError, ValueError, KeyError):
        return None
    figures = tuple(str(path) for path in sorted(folder.glob("*.png")))
    terminal = "\n".join([tables.compact_table(table), "", *tables.verdicts(table)])
    return Scorecard(str(folder), str(folder / "scorecard.parquet"), figures, True, table, text, terminal)
