"""What a scorecard says in words: one line a learner, against the best that can be had without learning."""

import pandas as pd

from core.verify.baselines import BASELINES
from core.verify.optimum import OPTIMUM
from core.verify.scorecard import defined_metric
from core.verify.tables import choose, holdout_words, leads_of

_ABOUT_RIGHT = {"coverage_90": (0.87, 0.93), "spread_skill": (0.9, 1.1)}
_SURENESS = {-1: "too sure", 0: "about right", 1: "not sure enough"}
_INTERVALS = {-1: "intervals too narrow", 0: "intervals about right", 1: "intervals too wide"}
_SPREAD = {-1: "spread too small", 0: "spread about right", 1: "spread too large"}


def heading(table: pd.DataFrame) -> str:
    """Over the verdicts: on which windows they are."""
    first = choose(table).iloc[0]
    return f"Verdicts ({first['split']}: {holdout_words(first['holdout'])})"


def verdicts(table: pd.DataFrame) -> list[str]:
    """For each learner its paired difference from the baseline of least CRPS, and how sure it rightly is."""
    chosen = choose(table)
    pairs = _pairs(chosen)
    return [
        "; ".join(part for part in (_difference(chosen, name, reference), _sureness(chosen, name)) if part)
        for name, reference in pairs
        if reference == _best_of(chosen, [other for one, other in pairs if one == name])
    ]


def other_pairs(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The paired differences that no verdict is about: header and rows. Those from the optimum have their own table."""
    chosen = choose(table)
    pairs = _pairs(chosen)
    rows = []
    for name, reference in pairs:
        if reference == OPTIMUM or reference == _best_of(chosen, [other for one, other in pairs if one == name]):
            continue
        whole, better, worse = _compared(chosen, name, reference)
        rows.append([f"{name} against {reference}", whole or "undefined", better or "-", worse or "-"])
    return ["pair", "CRPS", "better at", "worse at"], rows


def _pairs(chosen: pd.DataFrame) -> list[tuple[str, str]]:
    compared = chosen[chosen["metric"] == "crps_difference"]  # which there is of every pair, unlike skill
    return list(compared[["learner", "reference"]].drop_duplicates().itertuples(index=False, name=None))


def _best_of(chosen: pd.DataFrame, references: list[str]) -> str:
    """The baseline of least CRPS among some references; none: ""."""
    whole = defined_metric(chosen[chosen["lead_time"] == 0], "crps").set_index("learner")["value"]
    return min((name for name in references if name in BASELINES), key=whole.__getitem__, default="")


def _compared(chosen: pd.DataFrame, name: str, reference: str) -> tuple[str, str, str]:
    """The change of CRPS with its interval, at which lead times it is clearly better, and clearly worse; or "".

    The difference says which: it has an interval where skill has none, since a resample's reference has no error.
    """
    own = chosen[chosen["learner"] == name]
    skill, difference = (defined_metric(own, metric, reference) for metric in ("crps_skill", "crps_difference"))
    whole, by_lead = skill[skill["lead_time"] == 0], difference[difference["lead_time"] > 0]
    if whole.empty:
        return "", "", ""
    value, low, high = (-100 * whole[column].iloc[0] for column in ("value", "high", "low"))
    one_block = ", one block" if whole["blocks"].iloc[0] == 1 else ""
    change = f"{value:+.1f} %" + (f" [{low:+.1f}, {high:+.1f}]" if low == low else one_block)
    every = leads_of(chosen)
    better, worse = by_lead[by_lead["high"] < 0]["lead_time"], by_lead[by_lead["low"] > 0]["lead_time"]
    return change, _spans(better.tolist(), every), _spans(worse.tolist(), every)


def _difference(chosen: pd.DataFrame, name: str, reference: str) -> str:
    change, better, worse = _compared(chosen, name, reference)
    if not change:
        return f"{name} against {reference}: undefined, since the reference has no error"
    if "one block" in change:
        return f"{name} against {reference}: one block only, so no interval and no verdict; CRPS {change}"
    words = [f"better than {reference} at {better}"] if better else []
    words += [f"worse {'' if better else f'than {reference} '}at {worse}"] if worse else []
    said = " and ".join(words) or f"no clear difference from {reference} at any lead time"
    return f"{name}: {said} (95 %), CRPS {change}"


def _sureness(chosen: pd.DataFrame, name: str) -> str:
    """In words, from what its intervals held and from its spread; nothing for a point forecast."""
    own = chosen[(chosen["learner"] == name) & (chosen["lead_time"] == 0)].set_index("metric")["value"]
    if not set(_ABOUT_RIGHT) <= set(own.index):
        return ""
    held, spread = (int(own[m] > high) - int(own[m] < low) for m, (low, high) in _ABOUT_RIGHT.items())
    word = _SURENESS[held] if held == spread else f"{_INTERVALS[held]} but {_SPREAD[spread]}"
    numbers = f"its 90 % intervals held {100 * own['coverage_90']:.0f} %, spread over error {own['spread_skill']:.2f}"
    return f"{word} ({numbers})"


def _spans(chosen: list[int], every: list[int]) -> str:
    """Lead times as ranges: [30, 60, 120] of 30, 60, 90, 120 -> 30-60, 120 min; none: ""."""
    runs: list[list[int]] = []
    for lead in every:
        if lead not in chosen:
            continue
        if runs and every.index(lead) == every.index(runs[-1][-1]) + 1:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs) + " min" if runs else ""
