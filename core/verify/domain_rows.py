"""Scores of the baselines that see the whole domain: one forecast a start time, cut to the windows that start then."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from core.allocator import give_back_free_pages
from core.archive.objects import open_objects
from core.config import EvaluateConfig
from core.episodes.frames import MISSING, Frames
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.fanout import fan_out
from core.report import Report
from core.verify.baselines import OPTICAL_FLOW, STEPS
from core.verify.domain import CANDIDATES, StepsSettings, optical_flow, steps
from core.verify.ensemble import Ensemble
from core.verify.events import Event
from core.verify.state import all_statistics, as_frame

Method = Literal["optical_flow", "steps"]
NAMES: dict[Method, str] = {"optical_flow": OPTICAL_FLOW, "steps": STEPS}
_STARTS_TO_CHOOSE_ON = 4
_STEPS_MEMBERS = 20
_FORMAT = 2  # raise it when the same job gives other statistics


@dataclass(frozen=True)
class Job:
    """How a method forecasts and is scored: small, and the same in every process."""

    archive: str
    episodes: str
    method: Method
    settings: StepsSettings
    members: int
    seed: int
    events: tuple[Event, ...]


def domain_windows(
    config: EvaluateConfig,
    store: EpisodeStore,
    methods: list[Method],
    events: tuple[Event, ...],
    report: Report,
    client: Any = None,
) -> tuple[list[pd.DataFrame], list[Job], list[str]]:
    """Window statistics of each method over the split, how it forecast, and a note on how STEPS was set.

    Each start's statistics are kept in the scorecard's `baselines`, under the digest of all that they depend on, so
    that another run scored on the same episodes, or the same command after a kill, does not forecast again.
    """
    frames, jobs, notes, folder = [], [], [], f"{config.scorecard}/baselines"
    for method in methods:
        if store.spec.input_frames < 2:
            notes.append(f"{NAMES[method]} needs two input frames and is left out.")
            continue
        members = max(config.members, _STEPS_MEMBERS)
        job = Job(config.archive, config.episodes, method, StepsSettings(), members, config.seed, events)
        if method == "steps" and len(store.ids("validation")):
            job = choose_steps(job, store, folder, report, client)
            notes.append(f"STEPS: {members} members, whole domain; {job.settings}, chosen on validation by CRPS.")
        frames.append(score_starts(job, store, config.split, folder, report, client))
        jobs.append(job)
    return frames, jobs, notes


def window_forecasts(jobs: Sequence[Job], store: EpisodeStore, episode: int, window: int) -> dict[str, Ensemble]:
    """What some methods forecast for one query window, (L*C, Y, X), as it was scored."""
    start, entry = store.init_times([episode])[1][0, window], store.catalog.iloc[episode]
    return {NAMES[job.method]: _tile(_forecast(job, store, start), store, entry) for job in jobs}


def choose_steps(job: Job, store: EpisodeStore, folder: str, report: Report, client: Any = None) -> Job:
    """The job with the candidate settings of least CRPS over a few validation starts."""
    scores: list[tuple[float, int]] = []
    for i, candidate in enumerate(CANDIDATES):
        trial = replace(job, settings=candidate)
        windows = score_starts(trial, store, "validation", folder, report, client, _STARTS_TO_CHOOSE_ON)
        scores.append((windows["crps"].sum() / windows["count"].sum(), i))
    return replace(job, settings=CANDIDATES[min(scores)[1]])


def score_starts(
    job: Job, store: EpisodeStore, split: str, folder: str, report: Report, client: Any = None, most: int = 0
) -> pd.DataFrame:
    """Statistics of a split's query windows, one forecast a start time; of at most `most` starts, evenly spread."""
    by_start: dict[np.datetime64, list[tuple[int, int]]] = defaultdict(list)
    ids = store.ids(split)
    for episode, times in zip(ids, store.init_times(ids)[1], strict=True):
        for window, time in enumerate(times):
            by_start[time].append((int(episode), window))
    calls = sorted(by_start.items())
    if most:
        calls = [calls[i] for i in np.linspace(0, len(calls) - 1, min(most, len(calls))).astype(int)]
    digest = _digest(repr((_FORMAT, store.digest, replace(job, archive="", episodes=""))))
    score, note = (
        partial(_score_start, job, f"{folder}/{job.method}-{split}-{digest}"),
        f"starts forecast by {NAMES[job.method]}",
    )
    if client is not None:
        return pd.concat(fan_out(score, calls, client=client, report=report, note=note), ignore_index=True)
    frames = []
    for done, call in enumerate(calls, 1):
        frames.append(score(call))
        report.progress(done, len(calls), note)
    return pd.concat(frames, ignore_index=True)


def _score_start(job: Job, folder: str, call: tuple[np.datetime64, list[tuple[int, int]]]) -> pd.DataFrame:
    """Statistics of all windows that start at one time."""
    start, windows = call
    place, key = open_objects(folder), f"{np.datetime_as_string(start, unit='m').replace(':', '')}.parquet"
    if (kept := place.get(key)) is not None:
        return pd.read_parquet(io.BytesIO(kept))
    store = EpisodeStore.open(job.episodes)
    forecast = _forecast(job, store, start)
    loader = Loader(store, split=str(store.catalog["split"].iloc[0]))
    channels = len(store.channels)
    frames = []
    for episode, window in windows:
        entry = store.catalog.iloc[episode]
        query = loader.load([episode]).query
        ensemble = Ensemble(_tile(forecast, store, entry).members[:, None])
        stats = all_statistics(ensemble, query.y[:, window], query.mask[:, window], job.events, channels, job.seed)
        frames.append(
            as_frame(stats, NAMES[job.method], entry, query.init_time[0, window : window + 1], store, [window])
        )
    table = pd.concat(frames, ignore_index=True)
    place.put(key, table.to_parquet(index=False))
    give_back_free_pages()
    return table


def _tile(forecast: np.ndarray, store: EpisodeStore, entry: pd.Series) -> Ensemble:
    """An episode's tile (L*C, Y, X) of a forecast of the whole domain; `entry` is the episode's row of the catalog."""
    side = store.spec.tile_pixels
    tile = forecast[..., entry["y0"] : entry["y0"] + side, entry["x0"] : entry["x0"] + side]
    return Ensemble(torch.from_numpy(np.ascontiguousarray(tile)))


def _forecast(job: Job, store: EpisodeStore, start: np.datetime64) -> np.ndarray:
    """Normalised forecast (S, L*C, Y, X) of the whole domain from the windows' own input frames."""
    frames = Frames.open(job.archive, store.channels)
    cadence = store.lead_minutes[0]
    step = cadence // frames.archive.cadence_minutes
    slot = frames.archive.slot(start)
    codes = frames.codes([slot + step * i for i in range(1 - store.spec.input_frames, 1)])
    values = codes * frames.scale[:, None, None] + frames.offset[:, None, None]
    values = (values - store.normalisation.mean[:, None, None]) / store.normalisation.std[:, None, None]
    values = np.where(codes == MISSING, np.nan, values)
    channels = []
    for c in range(len(store.channels)):
        if job.method == "optical_flow":
            channels.append(optical_flow(values[:, c], store.spec.target_frames)[None])
            continue
        channels.append(
            steps(
                values[:, c],
                store.spec.target_frames,
                job.members,
                job.settings,
                int(np.random.SeedSequence([job.seed, slot, c]).generate_state(1)[0]),
                kilometres_per_pixel=frames.archive.grid.spacing[0] / 1000,
                minutes_per_frame=float(cadence),
            )
        )
    stacked = np.stack(channels, axis=2)  # (S, L, C, Y, X)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
