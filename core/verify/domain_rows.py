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
from core.archive import Archive
from core.archive.objects import open_objects
from core.config import EvaluateConfig
from core.episodes.frames import MISSING, Frames
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.fanout import fan_out
from core.report import Report
from core.satellite.grid import same_grid
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


def methods_of(config: EvaluateConfig, store: EpisodeStore) -> tuple[list[Method], list[str]]:
    """The methods that are scored, and a note where some are asked for and left out."""
    methods: list[Method] = [m for m in ("optical_flow", "steps") if m in config.baselines]
    asked = " and ".join(NAMES[method] for method in methods)
    if methods and config.split == "validation":
        return [], [f"{asked} left out: they are scored on the test split alone, since STEPS is set on validation."]
    if methods and store.spec.input_frames < 2:
        return [], [f"{asked} left out: they need two input frames."]
    return methods, []


def require_archive(url: str, store: EpisodeStore, methods: Sequence[Method]) -> str:
    """What identifies the frames that the methods see, once it is sure that the episodes were cut from that archive.

    Raises FewcastError where `evaluate.archive` is none, or another one. Nothing is asked of it without methods.
    """
    if not methods:
        return ""
    if not url or not Archive.exists(url):
        raise FewcastError(
            f"{' and '.join(NAMES[method] for method in methods)} need the archive that the episodes were cut from",
            found=f"none at evaluate.archive = {url!r}",
            mend="give it by --set evaluate.archive=URL, or leave them out of evaluate.baselines",
        )
    archive = Archive.open(url)
    if [archive.kind_of.get(name) for name in store.channels] != list(store.spec.kinds):
        raise _another(url, store, f"the channels {', '.join(archive.channels)}")
    if "grid" in store.attributes and not same_grid(archive.grid, store.grid):
        raise _another(url, store, "another grid")
    splits = ["test", "validation"] if "steps" in methods else ["test"]
    times = store.init_times(np.concatenate([store.ids(split) for split in splits]))[1]
    return _written(Frames(archive, store.channels), store, np.unique(times))


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
    written = _written(Frames.open(job.archive, store.channels), store, [start for start, _ in calls])
    digest = _digest(repr((_FORMAT, store.digest, written, replace(job, archive="", episodes=""))))
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
    slots = _slots(frames.archive, store, start)
    codes = frames.codes(slots)
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
                int(np.random.SeedSequence([job.seed, slots[-1], c]).generate_state(1)[0]),
                kilometres_per_pixel=frames.archive.grid.spacing[0] / 1000,
                minutes_per_frame=float(store.lead_minutes[0]),
            )
        )
    stacked = np.stack(channels, axis=2)  # (S, L, C, Y, X)
    return stacked.reshape(stacked.shape[0], -1, *stacked.shape[3:])


def _slots(archive: Archive, store: EpisodeStore, start: np.datetime64) -> list[int]:
    """The archive's slots of the input frames of a window; FewcastError where it has none at those times."""
    cadence, inputs = store.lead_minutes[0], store.spec.input_frames
    step, rest = divmod(cadence, archive.cadence_minutes)
    try:
        slot = archive.slot(start)
    except ValueError:
        slot = -1
    if rest or slot < step * (inputs - 1):
        axis = f"every {archive.cadence_minutes} minutes from {archive.times[0]} to {archive.times[-1]}"
        raise _another(archive.url, store, f"frames {axis}, none of a window that starts at {start}")
    return [slot + step * i for i in range(1 - inputs, 1)]


def _written(frames: Frames, store: EpisodeStore, starts: Sequence[np.datetime64] | np.ndarray) -> str:
    """A digest that changes whenever a frame is written that a forecast from one of the starts sees."""
    slots = sorted({slot for start in starts for slot in _slots(frames.archive, store, start)})
    return _digest(repr((slots, frames.written(slots))))


def _another(url: str, store: EpisodeStore, found: str) -> FewcastError:
    return FewcastError(
        f"the archive {url} is not the one that the episodes were cut from",
        found=found,
        mend=f"set evaluate.archive to the one that {store.url} was built from",
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
