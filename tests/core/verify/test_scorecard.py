import re

import numpy as np
import pandas as pd
import pytest

from core.verify import tables
from core.verify.baselines import OPTICAL_FLOW, STEPS
from core.verify.bootstrap import blocks, interval, resampling_weights
from core.verify.colours import line_styles
from core.verify.cuts import COLUMNS
from core.verify.evaluate import comparisons
from core.verify.optimum import OPTIMUM
from core.verify.page import scorecard_markdown, scorecard_page
from core.verify.plots import calibration
from core.verify.rows import LearnedRow
from core.verify.scorecard import FACTS, Settings, scorecard_table
from core.verify.statistics import PIT_COLUMNS
from core.verify.verdicts import heading, other_pairs, verdicts

SETTINGS = Settings(samples=400, hours=6.0, seed=1)

FACTS_OF = {
    STEPS: dict(zip(FACTS, ("baseline", "", "", 0, 0, 0, 0, 0.0), strict=True)),
    "learner": dict(zip(FACTS, ("learner", "run", "best", 8, 2, 1234, 700, 61.7), strict=True)),
}
NO_CUTS = pd.DataFrame(columns=COLUMNS)


def _windows(days=6, tiles=3, channels=("ir",), better=0.1, spread=0.05):
    """Window statistics of a reference and of a learner that is `better` in every window, at two lead times."""
    rng = np.random.default_rng(0)
    rows = []
    for tile in range(tiles):
        for hour in range(0, 24 * days, 6):
            for lead in (30, 60):
                for channel in channels:
                    crps = rng.uniform(0.2, 0.4) * lead / 30
                    for learner, gain in ((STEPS, 0.0), ("learner", better + spread * rng.normal())):
                        count = float(rng.integers(50, 100))
                        rows.append({
                            "learner": learner, "split": "test", "holdout": ("region", "time")[tile % 2],
                            "episode": hour,
                            "window": tile, "tile": f"r{tile}c0",
                            "init_time": np.datetime64("2024-01-01") + np.timedelta64(hour, "h"),
                            "lead_time": lead, "channel": channel, "count": 80.0,
                            "error": 0.0, "absolute_error": count, "squared_error": count, "variance": count,
                            "crps": 80 * crps * (1 - gain), "inside_50%": 40.0, "inside_90%": 72.0, "inside_95%": 76.0,
                            **dict.fromkeys(PIT_COLUMNS, 4.0), **FACTS_OF[learner],
                        })  # fmt: skip
    return pd.DataFrame(rows)


def _one(table, **wanted):
    rows = table
    for name, value in wanted.items():
        rows = rows[rows[name] == value]
    assert len(rows) == 1
    return rows.iloc[0]


def test_values_are_the_metrics_of_the_summed_windows():
    windows = _windows()
    table = scorecard_table(windows, SETTINGS, [("learner", STEPS)], {"ir": 20.0})
    part = windows[(windows["learner"] == "learner") & (windows["holdout"] == "region") & (windows["lead_time"] == 60)]
    row = _one(table, metric="crps", learner="learner", holdout="region", lead_time=60)
    assert row["value"] == pytest.approx(part["crps"].sum() / part["count"].sum())
    assert row["physical"] == pytest.approx(20 * row["value"])
    assert row["windows"] == len(part)
    assert row["low"] < row["value"] < row["high"]
    assert {"region", "time", "all"} == set(table["holdout"])
    assert np.isfinite(table["value"]).all()


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        sample = rng.normal(size=40)  # one value a block
        draws = resampling_weights(40, 300, int(rng.integers(1 << 31))) @ sample / 40
        low, high = interval(draws)
        hits += low < 0 < high
    assert 0.88 <= hits / 200 <= 0.99


def test_differences_are_paired():
    table = scorecard_table(_windows(better=0.05, spread=0.01), SETTINGS, [("learner", STEPS)])
    skill = _one(table, metric="crps_skill", learner="learner", holdout="all", lead_time=0)
    plain = _one(table, metric="crps", learner="learner", holdout="all", lead_time=0)
    assert skill["value"] == pytest.approx(0.05, abs=0.01)
    assert skill["low"] > 0  # although the learners' own intervals overlap by far
    assert plain["high"] - plain["low"] > 0.05 * plain["value"]


def test_a_pair_is_compared_over_shared_windows_only():
    windows = _windows(better=0.1, spread=0.0)
    fewer = windows[~((windows["learner"] == STEPS) & (windows["episode"] < 24))]
    table = scorecard_table(fewer, SETTINGS, [("learner", STEPS)])
    assert _one(table, metric="crps_skill", holdout="all", lead_time=0)["value"] == pytest.approx(0.1)


def test_one_block_gives_a_value_without_an_interval():
    windows = _windows(days=1, tiles=1)
    windows = windows[windows["episode"] == 0]
    table = scorecard_table(windows, SETTINGS, [("learner", STEPS)])
    row = _one(table, metric="crps", learner="learner", lead_time=30)
    assert np.isnan(row["low"])
    assert row["blocks"] == 1
    assert "one block" in tables.compact_table(table)
    assert "no verdict" in verdicts(table)[0]


def test_skill_against_a_perfect_reference_is_left_out():
    windows = _windows()
    windows.loc[windows["learner"] == STEPS, "crps"] = 0.0
    table = scorecard_table(windows, SETTINGS, [("learner", STEPS)])
    assert "crps_skill" not in set(table["metric"])
    assert "crps_difference" in set(table["metric"])
    assert verdicts(table)[0].startswith("learner against STEPS: undefined, since the reference has no error")


def test_a_reference_without_error_in_most_blocks_gives_no_interval_of_skill_and_yet_a_verdict():
    windows = _windows(days=2, tiles=1, better=0.3)
    still = windows["init_time"] >= windows["init_time"].min() + pd.Timedelta(hours=6)  # 7 of 8 blocks
    windows.loc[still & (windows["learner"] == STEPS), "crps"] = 1e-9
    windows.loc[windows["learner"] == "learner", "crps"] = 40.0
    table = scorecard_table(windows, SETTINGS, [("learner", STEPS)])
    skill = _one(table, metric="crps_skill", lead_time=30)
    difference = _one(table, metric="crps_difference", lead_time=30)
    assert skill["blocks"] == 8
    assert np.isnan([skill["low"], skill["high"]]).all()
    assert difference["low"] > 0
    [line] = verdicts(table)
    assert line.startswith("learner: worse than STEPS at 30-60 min (95 %), CRPS +")
    assert "one block" not in line
    ratios = scorecard_table(windows.replace({"learner": {STEPS: OPTIMUM}}), SETTINGS, [("learner", OPTIMUM)])
    assert "one block" not in scorecard_page(ratios, NO_CUTS, [], {})


def test_a_learner_is_a_ratio_to_the_optimum_where_there_is_one():
    windows = _windows(better=-0.04, spread=0.0).replace({"learner": {STEPS: OPTIMUM}})
    table = scorecard_table(windows, SETTINGS, [("learner", OPTIMUM)])
    ratio = _one(table, metric="crps_ratio", learner="learner", holdout="all", lead_time=60)
    assert (ratio["value"], ratio["low"], ratio["high"]) == pytest.approx((1.04, 1.04, 1.04))
    text = tables.markdown(table)
    assert "ratio to that of the optimum" in text
    assert "| learner | 1.040 [1.040, 1.040] |" in text
    plain = scorecard_table(windows.replace({"learner": {OPTIMUM: STEPS}}), SETTINGS, [("learner", STEPS)])
    assert "crps_ratio" not in set(plain["metric"])


def test_the_distance_of_the_pit_from_uniform_is_the_share_that_lies_elsewhere():
    windows = _windows()
    flat = scorecard_table(windows, SETTINGS, [])
    assert (flat.loc[flat["metric"] == "pit_distance", "value"] == 0).all()
    windows["pit_00"], windows["pit_10"] = 8.0, 0.0  # one in twenty observations below where it should be
    table = scorecard_table(windows, SETTINGS, [])
    row = _one(table, metric="pit_distance", learner="learner", holdout="all", lead_time=0)
    assert row["value"] == pytest.approx(0.05)
    assert np.isnan(row["low"])


def test_channels_are_scored_apart_and_together():
    table = scorecard_table(_windows(channels=("ir", "wv")), SETTINGS, [])
    assert set(table["channel"]) == {"ir", "wv", "all"}


def test_blocks_are_tile_and_span():
    times = pd.Series(np.array(["2024-01-01T05:59", "2024-01-01T06:00", "2024-01-01T06:00"], "M8[ns]"))
    names = blocks(pd.Series(["a", "a", "b"]), times, 6.0)
    assert len(set(names)) == 3
    assert len(set(blocks(pd.Series(["a", "a", "b"]), times, 24.0))) == 2


def test_a_verdict_names_the_lead_times_and_the_windows_in_words():
    table = scorecard_table(_windows(better=0.3), SETTINGS, [("learner", STEPS)])
    [line] = verdicts(table)
    assert heading(table) == "Verdicts (test: all held-out windows)"
    assert line.startswith("learner: better than STEPS at 30-60 min (95 %), CRPS -")
    assert line.endswith("; about right (its 90 % intervals held 90 %, spread over error 1.00)")
    worse = scorecard_table(_windows(better=-0.3), SETTINGS, [("learner", STEPS)])
    assert "worse than STEPS at 30-60 min" in verdicts(worse)[0]


def test_the_verdict_is_against_the_best_baseline_and_other_pairs_are_a_table():
    windows = _windows(better=0.1)
    flow = windows[windows["learner"] == STEPS].assign(learner=OPTICAL_FLOW, crps=lambda own: 0.95 * own["crps"])
    windows = pd.concat([windows, flow])
    pairs = comparisons([LearnedRow("learner", (), "ensemble")], windows)
    assert pairs == [("learner", OPTICAL_FLOW), ("learner", STEPS)]
    table = scorecard_table(windows, SETTINGS, pairs)
    [line] = verdicts(table)
    assert line.startswith("learner: better than optical flow at")
    _, [row] = other_pairs(table)
    assert row[0] == "learner against STEPS"
    assert row[2:] == ["30-60 min", "-"]
    for text in (scorecard_markdown(table, NO_CUTS, []), scorecard_page(table, NO_CUTS, [], {})):
        assert "Verdicts (test: all held-out windows)" in text
        assert row[1] in text


@pytest.mark.parametrize(
    ("held", "spread", "words"),
    [
        (72, 1.0, "about right"), (60, 0.8, "too sure"), (78, 1.2, "not sure enough"),
        (73, 0.88, "intervals about right but spread too small"),
        (66, 1.0, "intervals too narrow but spread about right"),
        (66, 1.2, "intervals too narrow but spread too large"),
    ],
)  # fmt: skip
def test_intervals_and_spread_that_disagree_are_both_told(held, spread, words):
    windows = _windows()
    windows["inside_90%"], windows["variance"] = held, spread**2 * windows["squared_error"]
    assert f"; {words} (its" in verdicts(scorecard_table(windows, SETTINGS, [("learner", STEPS)]))[0]


def test_markdown_has_every_learner_and_lead_time():
    table = scorecard_table(_windows(), SETTINGS, [("learner", STEPS)])
    text = scorecard_markdown(table, NO_CUTS, ["a note"])
    for word in (
        "a note",
        "learner",
        "STEPS",
        "30 min",
        "60 min",
        "new region",
        "new time",
        "all held-out windows",
    ):
        assert word in text
    assert "nan" not in text


def test_what_the_learned_rows_cost_to_train_is_in_the_table_and_told():
    windows = _windows()
    twice = windows[windows["learner"] == "learner"].assign(learner="twice", training_seconds=123.4)
    older = windows[windows["learner"] == "learner"].assign(learner="older", training_seconds=0.0)
    table = scorecard_table(pd.concat([windows, twice, older]), SETTINGS, [("learner", STEPS)])
    assert set(table[table["learner"] == "twice"]["training_seconds"]) == {123.4}
    header, rows = tables.training(table)
    assert header == ["trained", "weights", "steps", "seconds", "time / the first's"]
    assert rows == [
        ["learner", "1,234", "700", "62", "1.00"],
        ["twice", "1,234", "700", "123", "2.00"],
        ["older", "1,234", "700", "not recorded", "-"],
    ]
    for text in (scorecard_markdown(table, NO_CUTS, []), scorecard_page(table, NO_CUTS, [], {})):
        assert "not recorded" in text


def test_calibration_by_lead_time_is_readable_with_its_intervals():
    windows = _windows()
    windows.loc[windows["lead_time"] == 60, "inside_90%"] = 60.0
    table = scorecard_table(windows, SETTINGS, [])
    text = tables.markdown(table).split("all held-out")[1]
    [part] = re.findall(r"central 90 % interval:\n\n(.*?)\n\n", text, re.S)
    header, _, *rows = part.splitlines()
    assert header == "| learner | 30 min | 60 min | all leads |"
    assert "| learner | 0.900 [0.900, 0.900] | 0.750 [0.750, 0.750] | 0.825 [0.825, 0.825] |" in rows
    page = scorecard_page(table, NO_CUTS, [], {})
    assert "<td>0.750 [0.750, 0.750]</td>" in page


def test_the_picture_of_calibration_is_of_one_holdout_and_names_it():
    windows = _windows()
    windows["holdout"] = windows["holdout"].replace({"time": "both"})
    windows.loc[windows["holdout"] == "region", "pit_00"] = 1000.0  # what another hold-out would show
    table = scorecard_table(windows, SETTINGS, [])
    figure = calibration(windows, table, "test", line_styles(table["learner"]))
    assert figure.get_suptitle() == "new region and new time"
    [heights] = {tuple(patch.get_data().values) for patch in figure.axes[0].patches}
    np.testing.assert_allclose(heights, 1.0)
