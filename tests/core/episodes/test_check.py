"""Damage is found, named and mended alone; a store is described by its tables."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build, draw, inspect, validate
from core.errors import FewcastError
from core.report import Silent

Configure = Callable[..., EpisodesConfig]


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_damaged_shards_are_found_named_and_rebuilt_alone(configure: Configure, compression: str) -> None:
    config = configure(compression=compression, jitter_pixels=6)
    build(config)
    assert validate(config.store).valid
    folder = Path(config.store, "frames")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.glob("c.*")}
    flipped, cut, gone = (folder / f"c.{n}.0.0.0.0.0" for n in (0, 3, 17))
    data = bytearray(flipped.read_bytes())
    data[777] ^= 1  # a flipped pixel, which no index can notice
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:500])
    gone.unlink()
    found = validate(config.store)
    assert (sorted(found.damaged), found.rebuilt, found.valid) == ([0, 3, 17], [], False)
    assert "episode 17: its shard is missing" in str(found)
    assert "NOT VALID" in str(found)
    many = str(replace(found, damaged=dict.fromkeys(range(100), "its shard is missing")))
    assert "... and 80 more damaged episodes" in many
    assert len(many.splitlines()) < 30
    with pytest.raises(FewcastError, match=r"episode 3 of .* is damaged.*fewcast episodes validate"):
        EpisodeStore.open(config.store).read([3])
    mended = validate(config.store, rebuild_damaged=True)
    assert (mended.rebuilt, mended.valid) == ([0, 3, 17], True)
    for path, (content, changed) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == changed) == (path not in (flipped, cut, gone)), "others are not touched"


def test_a_catalog_that_was_tampered_with_is_refused(configure: Configure) -> None:
    config = configure()
    build(config)
    root = Path(config.store, "zarr.json")
    content = json.loads(root.read_text())
    content["attributes"]["fewcast_episodes"]["normalisation"]["mean"][0] += 1
    root.write_text(json.dumps(content))
    with pytest.raises(FewcastError, match="not the one that was written"):
        validate(config.store)


def test_a_store_is_described(configure: Configure) -> None:
    config = configure()
    summary = build(config)
    seen = inspect(config.store)
    assert seen.leaks == []
    assert seen.counts["episodes"].to_dict() == summary.counts
    assert seen.regions.to_numpy().sum() == sum(summary.counts.values())
    assert (seen.counts["first"] < seen.counts["last"]).all()
    for word in ("no leaks", "test_both", "coverage", "query windows", summary.digest):
        assert word in str(seen)
    drawn = draw(config.store, f"{config.store}-pictures")
    assert [Path(path).name for path in drawn] == ["contexts.png", "episodes.png"]
    assert all(Path(path).stat().st_size > 10_000 for path in drawn)
    with pytest.raises(FewcastError, match="has no version 7: found versions 1 to 1"):
        EpisodeStore.open(config.store, version=7)
    with pytest.raises(FewcastError, match="is not an episode store"):
        EpisodeStore.open(config.archive)


@pytest.mark.parametrize("changes", [{}, {"margin_pixels": 2, "tile_pixels": 12, "support_windows": 0}])
def test_pictures_are_drawn_for_the_report(configure: Configure, changes: dict[str, int]) -> None:
    class Keep(Silent):
        def __init__(self) -> None:
            self.figures: dict[str, Figure] = {}

        def figure(self, name: str, figure: Figure, step: int) -> None:
            self.figures[name] = figure

    kept = Keep()
    config = configure(**changes)
    build(config, report=kept)
    store = EpisodeStore.open(config.store)
    assert set(kept.figures) == {"contexts", "episodes"}
    kept.figures["contexts"].draw_without_rendering()
    panels = kept.figures["episodes"].axes
    assert len(panels) == 7 * (5 if changes else 5 + 1 + 5), "a gap parts support from query"
    shown = [np.ma.filled(image.get_array(), 65535) for axes in panels[:5] for image in axes.get_images()]
    row = store.catalog[store.catalog.split == "train"].pipe(lambda t: t.iloc[len(t) // 2])
    window = max(store.spec.support_windows - 1, 0)
    assert np.array_equal(np.stack(shown), store.read([row.id])[0, window, :, 0])
