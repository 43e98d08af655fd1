"""Draws are checked against brute force over the status table."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import EpisodesConfig
from core.episodes.context import contexts, valid_windows, window_counts
from core.episodes.lattice import clear_positions, lattice
from core.episodes.sampler import Choices, Sampler
from core.episodes.spans import Timing, spans, split_slots

TIMES = np.datetime64("2021-11-29T00:15", "ns") + np.arange(144) * np.timedelta64(30, "m")
SHAPE = (56, 83)


def config(**changes: Any) -> EpisodesConfig:
    split = {
        "train": [{"start": "2021-11-29", "end": "2021-11-30"}],
        "validation": [{"start": "2021-11-30", "end": "2021-12-01"}],
        "test": [{"start": "2021-12-01", "end": "2021-12-02"}],
    }
    plain = {"tile_pixels": 16, "input_frames": 2, "target_frames": 3, "span": "hours", "span_hours": 20}
    return EpisodesConfig(**{"split": split, **plain, "support_windows": 2, "query_windows": 3, **changes})


def small_world(made: EpisodesConfig, timing: Timing, seed: int) -> Any:
    """Random frames: about a tenth missing, per tile; returns all that a sampler needs, and the truth."""
    rng = np.random.default_rng(seed)
    tiles = lattice(made, SHAPE)
    usable = rng.random((len(TIMES), len(tiles))) > 0.03
    change = rng.gamma(1.0, 1.0, usable.shape)
    change[rng.random(usable.shape) < 0.1] = np.nan
    claimed = split_slots(made.split, TIMES)
    windows = valid_windows(usable, claimed, change, 0, timing)
    all_spans = {k: spans(made.span, getattr(made.split, k), TIMES, made.span_hours, made.span_stride_hours)
                 for k in claimed}  # fmt: skip
    listed = contexts(tiles, all_spans, windows, claimed, {"change": change}, timing)
    return tiles, usable, claimed, windows, listed, Sampler(made, timing, windows, clear_positions(tiles, made, SHAPE))


def timing_of(made: EpisodesConfig, step: int = 1) -> Timing:
    return Timing(step, made.input_frames, made.target_frames, made.gap_minutes // 30, 30)


@pytest.mark.parametrize("step", [1, 2])
def test_valid_windows_are_those_of_brute_force(step: int) -> None:
    made = config()
    timing = timing_of(made, step)
    tiles, usable, claimed, windows, listed, _ = small_world(made, timing, 1)
    for name, slots in claimed.items():
        for tile in range(len(tiles)):
            truth = [
                all(0 <= t < 144 and usable[t, tile] and slots[t] for t in range(a, a + 5 * step, step))
                for a in range(144)
            ]
            assert windows.starts[name][:, tile].tolist() == truth
    counts = window_counts(windows, tiles).set_index(["split", "holdout"])
    train = (tiles["split"] == "train").to_numpy()
    assert counts.loc[("test", "time"), "windows"] == windows.starts["test"][:, train].sum()
    for row in listed.sample(20, random_state=0).itertuples():
        when = "train" if row.holdout in ("", "region") else row.split
        starts = windows.starts[when][row.span_start : row.span_stop - timing.reach, row.tile]
        assert row.windows == starts.sum()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), n_support=st.integers(0, 4), n_query=st.integers(1, 4), strides=st.integers(1, 3),
    gap=st.sampled_from([0, 60, 150]), draw=st.sampled_from(["recent", "random"]),
)  # fmt: skip
def test_every_episode_keeps_the_rules(
    seed: int, n_support: int, n_query: int, strides: int, gap: int, draw: str
) -> None:
    made = config(support_windows=n_support, query_windows=n_query, support_stride=strides, query_stride=2,
                  gap_minutes=gap, draw=draw, jitter_pixels=10, seed=seed)  # fmt: skip
    timing = timing_of(made)
    tiles, _, _, windows, listed, sampler = small_world(made, timing, seed % 7)
    place = {(t.y0, t.x0): i for i, t in enumerate(tiles.itertuples())}
    train = listed[listed.split == "train"]
    drawn = list(sampler.training(train, 30))
    drawn += sampler.evaluation(listed[(listed.split == "test") & (listed.holdout == "both")], 1000, set())
    for spec in drawn:
        assert len(set(spec.support)) == n_support
        assert len(set(spec.query)) == n_query
        assert spec.support == tuple(sorted(spec.support))
        assert all(b - a >= 2 for a, b in zip(spec.query, spec.query[1:], strict=False))
        assert all(b - a >= strides for a, b in zip(spec.support, spec.support[1:], strict=False))
        if spec.support:
            assert spec.query[0] > spec.support[-1] + timing.reach + timing.gap, "support, then gap, then query"
        assert spec.span_start <= min(spec.support + spec.query)
        assert max(spec.query) + timing.reach < spec.span_stop
        if spec.split == "train":
            home = tiles[(tiles.row == spec.row) & (tiles.col == spec.col)].iloc[0]
            assert sampler.clear[spec.y0, spec.x0]
            assert max(abs(spec.y0 - home.y0), abs(spec.x0 - home.x0)) <= 10
            tile = place[home.y0, home.x0]
        else:
            tile = place[spec.y0, spec.x0]
        assert all(windows.starts[spec.split][start, tile] for start in spec.support + spec.query)


def test_evaluation_takes_every_window_that_has_support_once() -> None:
    made = config(span_stride_hours=0.5)
    timing = timing_of(made)
    tiles, _, _, windows, listed, sampler = small_world(made, timing, 3)
    chosen = listed[(listed.split == "test") & (listed.holdout == "time")]
    specs = sampler.evaluation(chosen, 10_000, set())
    used = [(s.row, s.col, start) for s in specs for start in s.query]
    assert len(used) == len(set(used)), "no window is scored twice"
    for tile in np.flatnonzero(tiles["split"] == "train"):
        starts = np.flatnonzero(windows.starts["test"][:, tile])
        supported = [s for s in starts if (starts + timing.reach + 1 <= s).sum() >= 2]
        mine = [u for u in used if u[:2] == tuple(tiles.iloc[tile][["row", "col"]])]
        assert len(supported) - made.query_windows < len(mine) <= len(supported)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n_query=st.integers(1, 4), stride=st.integers(1, 5))
def test_query_windows_are_grouped_as_by_hand(seed: int, n_query: int, stride: int) -> None:
    """The earliest free window, then the earliest free one a stride later, and so on; until a group is not full."""
    made = config(query_windows=n_query, query_stride=stride, support_windows=0)
    timing = timing_of(made)
    *_, sampler = small_world(made, timing, 0)
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(rng.random(60) < 0.7)
    taken = {(3, int(start)) for start in starts if rng.random() < 0.2}
    rest = [int(start) for start in starts if (3, int(start)) not in taken]
    expected = []
    while rest:
        group = rest[:1]
        for start in rest[1:]:
            if len(group) < n_query and start - group[-1] >= stride:
                group.append(start)
        if len(group) < n_query:
            break
        rest = [start for start in rest if start not in group]
        expected.append(tuple(group))
    choice = Choices(starts, made, timing)
    assert list(sampler._groups(choice, 3, set(taken))) == (expected if len(choice.anchors) else [])


def test_a_cap_keeps_every_tile_and_spreads_over_time() -> None:
    made = config(span_stride_hours=2)
    timing = timing_of(made)
    *_, listed, sampler = small_world(made, timing, 3)
    chosen = listed[(listed.split == "test") & (listed.holdout == "time")]
    specs = sampler.evaluation(chosen, 24, set())
    assert len(specs) == 24
    by_tile: dict[Any, list[int]] = {}
    for spec in specs:
        by_tile.setdefault((spec.row, spec.col), []).append(spec.query[0])
    assert len(by_tile) == chosen.tile.nunique()
    everything = Sampler(made, timing, sampler.windows, sampler.clear).evaluation(chosen, 9999, set())
    middle = np.mean([s.query[0] for s in everything])
    assert abs(np.mean([s.query[0] for s in specs]) - middle) < 4


def test_training_follows_the_change_and_nothing_else() -> None:
    made = config(activity=1.0)
    timing = timing_of(made)
    *_, windows, listed, sampler = small_world(made, timing, 5)
    train = listed[listed.split == "train"]
    windows.weight[:, train.tile.unique()[0]] *= 20
    drawn = list(sampler.training(train, 2000))
    busy = train.tile.unique()[0]
    home = train[train.tile == busy].iloc[0]
    share = np.mean([(s.row, s.col) == (home.row, home.col) for s in drawn])
    mass = {t.Index: windows.weight[sampler.choices(t).starts[sampler.choices(t).anchors], t.tile]
            for t in train.itertuples() if len(sampler.choices(t).anchors)}  # fmt: skip
    expected = {i: np.maximum(m, 0.1 * m.mean()).mean() for i, m in mass.items()}
    wanted = sum(v for i, v in expected.items() if train.tile[i] == busy) / sum(expected.values())
    assert abs(share - wanted) < 0.01
    even = Sampler(made.model_copy(update={"activity": 0.0}), timing, windows, sampler.clear)
    share = np.mean([(s.row, s.col) == (home.row, home.col) for s in even.training(train, 2000)])
    assert abs(share - (train.tile == busy).mean()) < 0.05


def test_an_episode_does_not_depend_on_other_contexts() -> None:
    made = config()
    timing = timing_of(made)
    *_, listed, sampler = small_world(made, timing, 2)
    train = listed[listed.split == "train"]
    everything = {spec.seed: spec for spec in sampler.training(train, 400)}
    alone = {spec.seed: spec for spec in sampler.training(train.iloc[4:5], 5)}
    assert len(alone) == 5
    assert all(everything.get(seed, spec) == spec for seed, spec in alone.items())
    assert set(alone) & set(everything)


@pytest.mark.parametrize("starts", [[], [3], [3, 4, 5, 6], [0, 9, 10, 11, 30]])
def test_few_windows_offer_few_or_no_anchors(starts: list[int]) -> None:
    made = config(support_windows=2, query_windows=2, support_stride=2, query_stride=2)
    choices = Choices(np.array(starts, np.int64), made, timing_of(made))

    def fits(anchor: int) -> bool:
        query = [starts[anchor]]
        for s in starts[anchor:]:
            if s - query[-1] >= 2:
                query.append(s)
        support: list[int] = []
        for s in reversed(starts):
            if s + 5 <= starts[anchor] and (not support or support[-1] - s >= 2):
                support.append(s)
        return len(query) >= 2 and len(support) >= 2

    assert choices.anchors.tolist() == [i for i in range(len(starts)) if fits(i)]
