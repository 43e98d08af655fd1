"""A trained run and held-out episodes to a scorecard."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from core.config import EvaluateConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.report import Report, Silent
from core.verify.baselines import BASELINES, CLIMATOLOGY, DRESSED, PERSISTENCE, STEPS
from core.verify.cuts import cuts_table
from core.verify.domain_rows import domain_windows, methods_of, require_archive, window_forecasts
from core.verify.events import cloud_is_high, events_of
from core.verify.fine_tuning import choose_fine_tuning
from core.verify.folder import Scorecard, deliver, finished, folder_of, withdraw
from core.verify.optimum import OPTIMUM
from core.verify.page import scorecard_markdown, scorecard_page
from core.verify.pictures import draw_pictures
from core.verify.row_facts import run_notes, with_facts
from core.verify.rows import (
    LearnedRow,
    Plan,
    adapted_row,
    forget_models,
    learned_rows,
    open_model,
)
from core.verify.scorecard import Settings, scorecard_table
from core.verify.scoring import adapted_forecast, fit_dressing, score_all
from core.verify.tables import headline_windows
from core.verify.units import require_fit

_FORMAT = 5  # raise it when the same inputs give another scorecard


def evaluate(
    config: EvaluateConfig,
    names: Mapping[str, str] | None = None,
    *,
    report: Report | None = None,
    client: Any = None,
) -> Scorecard:
    """Score a run, adapted and not, beside persistence, on the held-out episodes of `config.split`.

    `names` says what to call runs that are not to be called by their paths.
    Every row forecasts the same windows. Statistics are per window, so the result does not depend on how the episodes
    are spread over `client` (a Dask cluster; None: this process). The same inputs are scored once: a second call
    returns what is there. Raises FewcastError for a run or a store that is missing, or that do not fit.
    """
    report, names = report or Silent(), names or {}
    store = EpisodeStore.open(config.episodes)
    forget_models()
    ids = store.ids(config.split)
    if len(ids) == 0:
        raise FewcastError(
            f"the episode store {config.episodes} has no {config.split} episodes",
            found=f"splits {sorted(set(store.catalog['split']))}",
            mend="build them, or evaluate another split with --set evaluate.split=...",
        )
    config, notes = curve_within(config, store)
    for run in dict.fromkeys([config.run, *config.more_runs, *config.deep_ensemble]):
        open_model(run, report=report)  # which tells where another checkpoint stands in for a damaged best
    rows = learned_rows(config, names)
    for run in dict.fromkeys(run for row in rows for run in row.runs):
        require_fit(run, open_model(run).spec, store)
    methods, left_out = methods_of(config, store)
    source = require_archive(config.archive, store, methods)
    folder, inputs = folder_of(config.scorecard), inputs_of(config, rows, store.digest, source)
    if (done := finished(config.scorecard, inputs)) is not None:
        report.message(f"scorecard {config.scorecard} is up to date with its run and episodes: skipped")
        return done
    withdraw(config.scorecard)
    rows, more = choose_fine_tuning(config, store, rows, report, client)
    notes += left_out + more
    spec, scaling = store.spec, store.normalisation
    events = events_of(config.thresholds, spec.channels, spec.kinds, scaling.mean, scaling.std)
    dressing = fit_dressing(store, config.seed)
    known = config.simulator if config.simulator.enabled and config.simulator.process == "linear" else None
    plan = Plan(tuple(rows), dressing, "climatology" in config.baselines, config.members, config.seed, events, known)
    windows, failed = score_all(config, store, [int(i) for i in ids], plan, report, client)
    domain, jobs, more = domain_windows(config, store, methods, events, report, client)
    windows, notes = pd.concat([*domain, windows], ignore_index=True), notes + more
    for name, error in failed.items():
        notes.append(f"{name} is left out: {error}.")
        report.message(notes[-1])
    windows = with_facts(windows, plan.rows, store, names)
    settings = Settings(config.bootstrap_samples, config.bootstrap_hours, config.seed)
    scales = dict(zip(store.channels, store.normalisation.std.tolist(), strict=True))
    table = scorecard_table(windows, settings, comparisons(plan.rows, windows), scales)
    windows.to_parquet(folder / "windows.parquet", index=False)
    table.to_parquet(folder / "scorecard.parquet", index=False)
    all_notes = [*_notes(config, store), *run_notes(plan.rows, store, names), *notes]
    forecast = partial(adapted_forecast, config.episodes, plan)
    beside = partial(window_forecasts, jobs, store)
    pictures = draw_pictures(folder, windows, table, store, events, forecast, beside)
    shown = events[0].channel
    cuts = cuts_table(windows, config.split, (spec.channels[shown], cloud_is_high(spec.kinds[shown])), settings)
    cuts.to_parquet(folder / "cuts.parquet", index=False)
    (folder / "scorecard.md").write_text(scorecard_markdown(table, cuts, all_notes))
    (folder / "scorecard.html").write_text(scorecard_page(table, cuts, all_notes, pictures))
    deliver(config.scorecard, inputs)
    made = finished(config.scorecard, inputs)
    assert made is not None
    return replace(made, skipped=False)


def curve_within(config: EvaluateConfig, store: EpisodeStore) -> tuple[EvaluateConfig, list[str]]:
    """The config without points of the few-shot curve for which the episodes have too few support windows, and a note.

    They would otherwise repeat the last point under another name.
    """
    there = store.spec.support_windows
    beyond = [n for n in config.support_curve if n > there]
    if not beyond:
        return config, []
    within = [n for n in config.support_curve if n <= there]
    asked = " and ".join(f"N_S = {n}" for n in beyond)
    return config.model_copy(update={"support_curve": within}), [
        f"Left out of the few-shot curve: {asked}, since an episode has {there} support windows."
    ]


def comparisons(rows: Sequence[LearnedRow], windows: pd.DataFrame) -> list[tuple[str, str]]:
    """Which pairs get a paired difference.

    Main rows against the best baseline, dressed persistence and STEPS; the adapted row against the other main rows and
    its controls; all against the optimum.
    """
    present = set(windows["learner"])
    main = [row.name for row in rows if row.main]
    others = [row.name for row in rows if row.kind == "shuffled"]
    adapted = adapted_row(rows).name
    pairs = [(name, baseline) for name in main for baseline in (best_baseline(windows), DRESSED, STEPS)]
    pairs += [(adapted, name) for name in [*main, *others] if name != adapted]
    pairs += [(name, OPTIMUM) for name in [PERSISTENCE, DRESSED, CLIMATOLOGY, *(row.name for row in rows)]]
    return [(a, b) for a, b in dict.fromkeys(pairs) if a in present and b in present]


def best_baseline(windows: pd.DataFrame) -> str:
    """The baseline of least CRPS over the windows of the headline."""
    own = headline_windows(windows)
    sums = own[own["learner"].isin(BASELINES)].groupby("learner", observed=True)[["crps", "count"]].sum()
    return str((sums["crps"] / sums["count"]).fillna(np.inf).idxmin())


def _notes(config: EvaluateConfig, store: EpisodeStore) -> list[str]:
    return [
        f"Episodes {config.episodes} (version {store.version}, digest {store.digest[:16]}), {config.members} members.",
        "Scores are in standardised units: divided by each channel's std over the training split. "
        f"Intervals are 95 %, from {config.bootstrap_samples} resamples of blocks of tile x "
        f"{config.bootstrap_hours:g} hours. Undefined metrics are left out, not guessed.",
    ]


def inputs_of(config: EvaluateConfig, rows: Sequence[LearnedRow], digest: str, source: str = "") -> dict[str, Any]:
    """All that a scorecard depends on, and its digest: the settings, the episodes, and whose forecasts each row is.

    `source` identifies the frames that the baselines of the whole domain see, where there are any.
    """
    versions = {row.name: list(row.versions) for row in rows}
    places = {"scorecard", "run", "more_runs", "deep_ensemble", "episodes", "archive"}
    settings = config.model_dump(mode="json", exclude=places)
    text = json.dumps([_FORMAT, settings, versions, digest, source], sort_keys=True)
    return {"digest": hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), "rows": versions, "episodes": digest,
            "settings": settings}  # fmt: skip
