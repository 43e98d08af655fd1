"""Episodes to window statistics: every row forecasts the query windows, here or on a Dask cluster."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch

from core.allocator import give_back_free_pages
from core.config import EvaluateConfig
from core.episodes.loader import Loader, Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.fanout import batches, fan_out
from core.report import Report
from core.verify.baselines import DressedPersistence, last_frame
from core.verify.ensemble import Prediction
from core.verify.optimum import OPTIMUM, optimal_forecast
from core.verify.rows import (
    Plan,
    adapted_row,
    episode_predictions,
    episode_seed,
    extra_inputs,
    one_torch_thread,
)
from core.verify.state import all_statistics, as_frame

_DRESSING_EPISODES = 128
_EPISODES_A_CALL = 4


def score_all(
    config: EvaluateConfig, store: EpisodeStore, ids: list[int], plan: Plan, report: Report, client: Any = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Window statistics of every row on the same windows, and by name what went wrong with rows that are left out.

    Statistics are per window, so the table does not depend on how the episodes are spread over `client`.
    """
    score = partial(score_episodes, config.episodes, plan)
    calls = [list(part) for part in batches(ids, _EPISODES_A_CALL)]
    with one_torch_thread():
        parts = fan_out(score, calls, client=client, report=report, note="forecasts scored")
    failed = {name: error for _, errors in parts for name, error in errors.items()}
    for row in plan.rows:
        if row.kind == "learner" and row.name in failed and (row.runs, row.which) == ((config.run,), "best"):
            raise FewcastError(
                f"{row.name} cannot be scored",
                found=failed[row.name],
                mend="if adaptation diverges, train the run again with a smaller learning_rate or inner.rate",
            )
    windows = pd.concat([frame for frame, _ in parts], ignore_index=True)
    return windows[~windows["learner"].isin(list(failed))].reset_index(drop=True), failed


def score_episodes(url: str, plan: Plan, ids: Sequence[int]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Window statistics of some episodes, and what went wrong by row name. Picklable in and out."""
    store = EpisodeStore.open(url)
    loader = Loader(store, split="train", extra=extra_inputs(plan.rows))
    batch = loader.load(ids)
    shuffled = any(row.kind == "shuffled" for row in plan.rows)
    frames, failed = [], {}
    for e, episode in enumerate(ids):
        entry = store.catalog.iloc[episode]
        support, query = episode_of(batch.support, e), episode_of(batch.query, e)
        other = episode_of(loader.load([partner(store, episode)]).support, 0) if shuffled else None
        seed = episode_seed(plan.seed, episode)
        for row in (None, *plan.rows):  # the baselines, then each row by itself: one may fail
            own = replace(plan, rows=(row,) if row else ())
            predictions = episode_predictions(support, query, other, store, own, seed, not row)
            if row is None and plan.simulator:
                best = optimal_forecast(plan.simulator, store, entry, query.only())
                predictions = chain([(OPTIMUM, best)], predictions)
            try:
                for name, prediction in predictions:
                    stats = all_statistics(prediction, query.y, query.mask, plan.events, len(store.channels), seed)
                    frames.append(as_frame(stats, name, entry, query.init_time, store))
            except (FewcastError, ValueError) as error:
                if row is None:
                    raise
                failed[row.name] = f"episode {episode}: {error}"
        give_back_free_pages()
    return pd.concat(frames, ignore_index=True), failed


def adapted_forecast(url: str, plan: Plan, episode: int) -> tuple[Windows, str, Prediction]:
    """The query windows of an episode, and whose forecast of them it is: of the first run, adapted."""
    store = EpisodeStore.open(url)
    own = replace(plan, rows=(adapted_row(plan.rows),))
    batch = Loader(store, split="train", extra=extra_inputs(own.rows)).load([episode])
    support, query, seed = episode_of(batch.support, 0), episode_of(batch.query, 0), episode_seed(plan.seed, episode)
    [(name, forecast)] = episode_predictions(support, query, None, store, own, seed, baselines=False)
    return query.only(), name, forecast


def episode_of(windows: Windows, e: int) -> Windows:
    """The windows (N, ...) of one episode of a batch."""
    return Windows(windows.x[e], windows.y[e], windows.mask[e], windows.init_time[e], windows.extra)


def partner(store: EpisodeStore, episode: int) -> int:
    """An episode of another tile, whose support the shuffled rows adapt to; of the same hold-out if there is one."""
    catalog = store.catalog
    entry = catalog.iloc[episode]
    elsewhere = (catalog["row"] != entry["row"]) | (catalog["col"] != entry["col"])
    alike = elsewhere & (catalog["split"] == entry["split"]) & (catalog["holdout"] == entry["holdout"])
    for choices in (alike, elsewhere, catalog["id"] != entry["id"]):
        found = catalog.loc[choices, "id"].to_numpy()
        if len(found):
            return int(found[episode_seed(0, episode) % len(found)])
    return episode


def fit_dressing(store: EpisodeStore, seed: int) -> np.ndarray:
    """Quantiles (Q, L*C) of persistence's errors on training episodes spread evenly over the split."""
    ids = store.ids("train")
    ids = ids[np.linspace(0, len(ids) - 1, min(len(ids), _DRESSING_EPISODES)).astype(int)]
    loader = Loader(store, split="train")

    def windows() -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        for episode in ids:
            query = episode_of(loader.load([int(episode)]).query, 0)
            last = last_frame(query.x, len(store.channels), store.spec.target_frames, *query.y.shape[-2:])
            yield last, query.y, query.mask

    errors = DressedPersistence.fit(windows(), torch.Generator().manual_seed(seed)).errors
    return errors.numpy()
