"""CRPS of every row by the hour, the season and the cloudiness of the windows."""

from collections.abc import Iterator

import pandas as pd

from core.verify.bootstrap import blocks, interval
from core.verify.kinds import CURVES
from core.verify.scorecard import LEVEL, Settings, resample

COLUMNS = ["cut", "value", "learner", "kind", "crps", "low", "high", "windows", "blocks"]


def cuts_table(windows: pd.DataFrame, split: str, cloudy: tuple[str, bool], settings: Settings) -> pd.DataFrame:
    """A row a cut, value and learner: CRPS over all lead times and hold-outs with its interval, windows and blocks.

    Cloudiness is the third of the windows that a window falls in by the mean observed value of a channel: `cloudy` has
    its name, and whether cloud is above (a reflectance) or below (a brightness temperature). One block has no interval.
    """
    own = windows[windows["split"] == split]
    own = own.assign(block=blocks(own["tile"], own["init_time"], settings.hours))
    parts = []
    for name, labels in _cuts(own, *cloudy):
        for (value, learner), part in own.groupby([labels, "learner"], sort=False, observed=True):
            sums, draws = resample(part, ["crps", "count"], settings)
            if sums["count"] == 0:
                continue
            number = part["block"].nunique()
            low, high = interval(draws["crps"] / draws["count"], LEVEL) if number > 1 else (float("nan"),) * 2
            size = len(part[["episode", "window"]].drop_duplicates()), number
            kind = part["kind"].iloc[0]
            parts.append((name, str(value), learner, kind, sums["crps"] / sums["count"], low, high, *size))
    return pd.DataFrame(parts, columns=COLUMNS)


def grids(cuts: pd.DataFrame) -> Iterator[tuple[list[str], list[list[str]]]]:
    """A table a cut: header, and a row a learner that is no point of a curve."""
    for name, part in cuts[~cuts["kind"].isin(CURVES)].groupby("cut", sort=False):
        values = sorted(part["value"].unique(), key=lambda value: _ORDER.get(value, value))
        cells = {(row["value"], row["learner"]): _cell(row) for _, row in part.iterrows()}
        sizes = {row["value"]: f"{row['value']} ({row['windows']} windows)" for _, row in part.iterrows()}
        learners = part["learner"].drop_duplicates()
        yield (
            [str(name), *(sizes[v] for v in values)],
            [[str(learner), *(cells.get((value, learner), "-") for value in values)] for learner in learners],
        )


_CLOUDINESS = ("clear", "mixed", "cloudy")
_SEASONS = ("DJF", "MAM", "JJA", "SON")
_ORDER = {value: str(place) for part in (_CLOUDINESS, _SEASONS) for place, value in enumerate(part)}


def _cuts(own: pd.DataFrame, channel: str, above: bool) -> Iterator[tuple[str, pd.Series]]:
    hour = own["init_time"].dt.hour // 6 * 6
    yield "hour (UTC)", hour.map(lambda first: f"{first:02d}-{first + 6:02d}").rename("value")
    yield "season", (own["init_time"].dt.month % 12 // 3).map(dict(enumerate(_SEASONS))).rename("value")
    seen = own[own["channel"] == channel].groupby(["episode", "window"])[["observed", "count"]].sum()
    mean = (seen["observed"] / seen["count"].where(seen["count"] > 0)) * (1 if above else -1)
    place = (mean.rank() - 0.5) / mean.count()  # of one window alone, the middle
    third = pd.cut(place.fillna(0.5), [0, 1 / 3, 2 / 3, 1], labels=list(_CLOUDINESS)).astype(str)
    of_window = pd.MultiIndex.from_frame(own[["episode", "window"]])
    yield f"cloudiness ({channel})", pd.Series(third.reindex(of_window).to_numpy(), index=own.index, name="value")


def _cell(row: pd.Series) -> str:
    return f"{row['crps']:.4f}" + (f" [{row['low']:.4f}, {row['high']:.4f}]" if row["low"] == row["low"] else "")
