"""Cuts of the scores, against sums by hand."""

import numpy as np
import pandas as pd
import pytest

from core.verify.cuts import COLUMNS, cuts_table, grids
from core.verify.scorecard import Settings


@pytest.fixture
def windows() -> pd.DataFrame:
    """Twelve windows of two tiles and six starts, two channels, one lead time; the first channel is a temperature."""
    rng, rows = np.random.default_rng(0), []
    for window in range(12):
        start = pd.Timestamp("2024-02-29T01:00") + pd.Timedelta(hours=7 * (window // 2))
        for channel in ("ir", "vis"):
            for learner, kind, scale in (("a", "learner", 1.0), ("b", "baseline", 2.0), ("c", "support_curve", 3.0)):
                rows.append({
                    "learner": learner, "kind": kind, "split": "test", "holdout": "both", "episode": 0,
                    "window": window, "tile": window % 2, "init_time": start, "lead_time": 10, "channel": channel,
                    "observed": 10.0 * (window if channel == "ir" else -window), "count": 10.0,
                    "crps": scale * float(rng.uniform(1, 2)),
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_cuts_are_sums_over_the_windows_that_they_name(windows):
    table = cuts_table(windows, "test", ("ir", False), Settings(samples=200, hours=6.0))
    assert list(table.columns) == COLUMNS
    assert set(table["cut"]) == {"hour (UTC)", "season", "cloudiness (ir)"}
    cold = windows[(windows["window"] >= 8) & (windows["learner"] == "a")]
    clear = windows[(windows["window"] < 4) & (windows["learner"] == "a")]
    seasons = windows[(windows["init_time"].dt.month == 3) & (windows["learner"] == "b")]
    for value, part, learner in (("clear", cold, "a"), ("cloudy", clear, "a"), ("MAM", seasons, "b")):
        row = table[(table["value"] == value) & (table["learner"] == learner)].iloc[0]
        assert row["crps"] == pytest.approx(part["crps"].sum() / part["count"].sum())
        assert row["windows"] == part["window"].nunique()
        assert row["low"] <= row["crps"] <= row["high"]
    assert len(table[table["cut"] == "season"]["value"].unique()) == 2


def test_where_cloud_is_bright_the_thirds_turn_round(windows):
    cold, bright = (cuts_table(windows, "test", ("ir", above), Settings(samples=200)) for above in (False, True))

    def of(table, value):
        return table[(table["value"] == value) & (table["learner"] == "a")]["crps"].item()

    assert of(cold, "clear") == of(bright, "cloudy") != of(cold, "cloudy")


def test_one_window_alone_is_neither_clear_nor_cloudy(windows):
    table = cuts_table(windows[windows["window"] == 0], "test", ("ir", False), Settings(samples=200))
    assert set(table[table["cut"] == "cloudiness (ir)"]["value"]) == {"mixed"}
    assert table["low"].isna().all()
    assert "nan" not in str(list(grids(table)))


def test_the_tables_are_in_order_and_without_points_of_curves(windows):
    tables = {
        header[0]: (header, rows) for header, rows in grids(cuts_table(windows, "test", ("ir", False), Settings()))
    }
    header, rows = tables["cloudiness (ir)"]
    assert [title.split()[0] for title in header[1:]] == ["clear", "mixed", "cloudy"]
    assert [row[0] for row in rows] == ["a", "b"]
    assert [title.split()[0] for title in tables["season"][0][1:]] == ["DJF", "MAM"]
