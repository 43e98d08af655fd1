"""The proof of no leaks: it holds for what we build, and planted leaks of every kind are found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from core.episodes import EpisodeStore, build
from core.episodes.leaks import leaks

VARIANTS: list[dict[str, Any]] = [
    {},
    {"margin_pixels": 2, "tile_pixels": 10, "jitter_pixels": 9, "overlap": 0.5},
    {"cadence_minutes": 60, "gap_minutes": 60, "input_frames": 1, "target_frames": 2},
    {"buffer": (3, 120), "jitter_pixels": 12, "tile_pixels": 12, "draw": "random"},
]


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join(v) or "plain")
def catalog(configure: Callable[..., Any], request: pytest.FixtureRequest) -> pd.DataFrame:
    changes = dict(request.param)
    pixels, minutes = changes.pop("buffer", (0, 0))
    config = configure({"buffer_pixels": pixels, "buffer_minutes": minutes}, **changes)
    build(config)
    return EpisodeStore.open(config.store).catalog


def test_what_we_build_has_none_by_painting_every_pixel_and_slot(catalog: pd.DataFrame) -> None:
    assert leaks(catalog) == []
    seen = {split: np.zeros((145, 56, 83), bool) for split in ("train", "validation", "test")}
    for row in catalog.itertuples():
        frames = [s + i * row.step_slots for s in (*row.support, *row.query) for i in range(row.window_frames)]
        last = max(row.support) + (row.window_frames - 1) * row.step_slots
        assert last + row.gap_slots < min(row.query)
        box = (
            slice(row.y0 - row.margin_pixels, row.y0 + row.tile_pixels + row.margin_pixels),
            slice(row.x0 - row.margin_pixels, row.x0 + row.tile_pixels + row.margin_pixels),
        )
        assert box[0].start >= 0
        assert box[1].start >= 0
        for frame in frames:
            seen[row.split][(frame, *box)] = True
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not (seen[first] & seen[second]).any(), f"{first} and {second} share a pixel of a frame"


def moved(catalog: pd.DataFrame, split: str, holdout: str, **changes: Any) -> pd.DataFrame:
    """The catalog with the first episode of a kind changed."""
    table = catalog.copy()
    at = table.index[(table.split == split) & (table.holdout == holdout)][0]
    for name, value in changes.items():
        table.at[at, name] = value
    return table


def test_planted_leaks_are_found(configure: Callable[..., Any]) -> None:
    config = configure({"buffer_pixels": 2, "buffer_minutes": 60})
    build(config)
    catalog = EpisodeStore.open(config.store).catalog
    assert leaks(catalog) == []
    train = catalog[catalog.split == "train"].iloc[0]
    test = catalog[(catalog.split == "test") & (catalog.holdout == "region")].iloc[0]
    both = catalog[(catalog.split == "test") & (catalog.holdout == "both")].iloc[0]
    swapped = moved(catalog, "train", "", support=train["query"], query=train["support"])
    assert any("its query begins" in line for line in leaks(swapped))
    touching = moved(catalog, "train", "", y0=test["y0"] + 17, x0=test["x0"])
    assert any("shares pixels with episode 0" in line for line in leaks(touching)), "17 pixels leave a buffer of 1"
    assert leaks(moved(catalog, "train", "", margin_pixels=30)), "margins count"
    for holdout in ("time", "both"):
        early = moved(catalog, "test", holdout, support=train["support"], query=train["query"])
        assert any(f"held out in {holdout}" in line and "of another split" in line for line in leaks(early))
    near = moved(catalog, "validation", "both", query=both["support"] - 5)
    assert any("lies" in line for line in leaks(near)), "frames that end just before test's break the buffer"
    assert any("held out in nothing" in line for line in leaks(catalog.replace({"holdout": {"time": ""}})))
