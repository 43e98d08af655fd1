"""Scores of the baselines that see the whole domain: one forecast a start time, cut to the windows that start then."""

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from core.config import EvaluateConfig
from core.episodes.fanout import fan_out
from core.episodes.frames import MISSING, Frames
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.report import Report
from core.verify.domain import CANDIDATES, StepsSettings, optical_flow, steps
from core.verify.ensemble import Ensemble
from core.verify.frames import as_frame
from core.verify.statistics import window_statistics

Method = Literal["optical_flow", "steps"]
NAMES: dict[Method, str] = {"optical_flow": "optical flow", "steps": "STEPS"}
_STARTS_TO_CHOOSE_ON = 6
_STEPS_MEMBERS = 20


def domain_windows(
    config: EvaluateConfig, store: EpisodeStore, methods: list[Method], folder: Path, report: Report, client: Any
) -> tuple[list[pd.DataFrame], list[str]]:
    """Window statistics of each method over the split, and a note on how STEPS was set.

    Each start's statistics are kept in `folder`, under the digest of all that they depend on, so that another run
    scored on the same episodes, or the same command after a kill, does not forecast again.
    """
    frames, notes = [], []
    for method in methods:
        if store.spec.input_frames < 2:
            notes.append(f"{NAMES[method]} needs two input frames and is left out.")
            continue
        settings = StepsSettings()
        if method == "steps":
            settings = choose_steps(config, store, folder, report, client)
            members = max(config.members, _STEPS_MEMBERS)
            notes.append(f"STEPS: {members} members over the whole domain; {settings}, chosen on validation by CRPS.")
        frames.append(_scored(config, store, config.split, method, settings, folder, report, client))
    return frames, notes


def choose_steps(
    config: EvaluateConfig, store: EpisodeStore, folder: Path, report: Report, client: Any
) -> StepsSettings:
    """The candidate with the least CRPS over a few validation starts; the first where there is no validation."""
    if len(store.ids("validation")) == 0:
        return CANDIDATES[0]
    best: list[tuple[float, int]] = []
    for i, candidate in enumerate(CANDIDATES):
        windows = _scored(config, store, "validation", "steps", candidate, folder, report, client, _STARTS_TO_CHOOSE_ON)
        best.append((windows["crps"].sum() / windows["count"].sum(), i))
    return CANDIDATES[min(best)[1]]


def _scored(
    config: EvaluateConfig,
    store: EpisodeStore,
    split: str,
    method: Method,
    settings: StepsSettings,
    folder: Path,
    report: Report,
    client: Any,
    starts: int = 0,
) -> pd.DataFrame:
    members = max(config.members, _STEPS_MEMBERS)
    by_start: dict[np.datetime64, list[tuple[int, int]]] = defaultdict(list)
    ids = store.ids(split)
    for episode, times in zip(ids, store.init_times(ids)[1], strict=True):
        for window, time in enumerate(times):
            by_start[time].append((int(episode), window))
    calls = sorted(by_start.items())
    if starts:
        calls = [calls[i] for i in np.linspace(0, len(calls) - 1, min(starts, len(calls))).astype(int)]
    key = json.dumps([store.digest, method, asdict(settings), members, config.seed]) if method == "steps" else ""
    place = folder / f"{method}-{split}-{_digest(key or json.dumps([store.digest, method]))}"
    place.mkdir(parents=True, exist_ok=True)
    score = partial(_score_start, config.archive, config.episodes, method, settings, members, config.seed, str(place))
    note = f"starts forecast by {NAMES[method]}"
    if client is None:
        frames = []
        for done, call in enumerate(calls, 1):
            frames.append(score(call))
            report.progress(done, len(calls), note)
    else:
        frames = fan_out(score, calls, client=client, report=report, note=note)
    return pd.concat(frames, ignore_index=True)


def _score_start(
    archive: str,
    url: str,
    method: Method,
    settings: StepsSettings,
    members: int,
    seed: int,
    folder: str,
    call: tuple[np.datetime64, list[tuple[int, int]]],
) -> pd.DataFrame:
    """Statistics of all windows that start at one time."""
    start, windows = call
    kept = Path(folder) / f"{np.datetime_as_string(start, unit='m').replace(':', '')}.parquet"
    if kept.exists():
        return pd.read_parquet(kept)
    store = EpisodeStore.open(url)
    forecast = _forecast(archive, store, method, settings, members, seed, start)
    loader = Loader(store, split=str(store.catalog["split"].iloc[0]))
    frames = []
    for episode, window in windows:
        entry = store.catalog.iloc[episode]
        query = loader.load([episode]).query
        y, mask = query.y[:, window], query.mask[:, window]
        side = store.spec.tile_pixels
        tile = forecast[..., entry["y0"] : entry["y0"] + side, entry["x0"] : entry["x0"] + side]
        stats = window_statistics(Ensemble(torch.from_numpy(np.ascontiguousarray(tile))[:, None]), y, mask)
        frames.append(as_frame(stats, NAMES[method], entry, query.init_time[0, window : window + 1], store, [window]))
    table = pd.concat(frames, ignore_index=True)
    beside = kept.with_suffix(".partial")
    table.to_parquet(beside, index=False)
    beside.replace(kept)
    return table


def _forecast(
    archive: str,
    store: EpisodeStore,
    method: Method,
    settings: StepsSettings,
    members: int,
    seed: int,
    start: np.datetime64,
) -> np.ndarray:
    """Normalised forecast (S, L*C, Y, X) of the whole domain from the windows' own input frames."""
    frames = Frames.open(archive, store.channels)
    cadence = store.lead_minutes[0]
    step = cadence // frames.archive.cadence_minutes
    slot = frames.archive.slot(start)
    codes = frames.codes([slot + step * i for i in range(1 - store.spec.input_frames, 1)])
    values = codes * frames.scale[:, None, None] + frames.offset[:, None, None]
    values = (values - store.normalisation.mean[:, None, None]) / store.normalisation.std[:, None, None]
    values = np.where(codes == MISSING, np.nan, values)
    channels = []
    for c in range(len(store.channels)):
        if method == "optical_flow":
            channels.append(optical_flow(values[:, c], store.spec.target_frames)[None])
            continue
        own = int(np.random.SeedSequence([seed, slot, c]).generate_state(1)[0])
        channels.append(
            steps(
                values[:, c],
                store.spec.target_frames,
                members,
                settings,
                own,
                kilometres_per_pixel=frames.archive.grid.spacing[0] / 1000,
                minutes_per_frame=float(cadence),
            )
        )
    stacked = np.stack(channels, axis=2)  # (S, L, C, Y, X)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
