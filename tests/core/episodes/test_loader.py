"""Batches against plain xarray arithmetic, and their order against its promises."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from core.archive import Archive
from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build
from core.episodes.loader import EpisodeBatch, Loader, turned

SETTINGS = {"channels": ["vis", "ir"], "margin_pixels": 3, "tile_pixels": 10, "jitter_pixels": 4}


@pytest.fixture(scope="module")
def store(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    day = "2021-11-{}"
    config = EpisodesConfig.model_validate(SETTINGS | {
        "archive": archive.url, "store": str(tmp_path_factory.mktemp("loader") / "episodes.zarr"), "input_frames": 2,
        "target_frames": 3, "span": "hours", "span_hours": 20, "support_windows": 2, "query_windows": 3,
        "train_episodes": 13, "validation_episodes": 4, "test_episodes": 4,
        "split": {"train": [{"start": day.format(29), "end": day.format(30)}],
                  "validation": [{"start": day.format(30), "end": "2021-12-01"}],
                  "test": [{"start": "2021-12-01", "end": "2021-12-02"}]},
    })  # fmt: skip
    build(config)
    return EpisodeStore.open(config.store)


def same(a: EpisodeBatch, b: EpisodeBatch) -> bool:
    tensors = [(getattr(getattr(a, s), n), getattr(getattr(b, s), n)) for s in ("support", "query") for n in "xy"]
    return a.ids == b.ids and all(torch.equal(p, q) for p, q in tensors)


def test_windows_are_the_normalised_pixels(store: EpisodeStore, archive: Archive) -> None:
    with xr.open_zarr(archive.url) as opened:
        three_days = opened.isel(time=slice(144))
        raw = np.stack([three_days["reflectance"][:, 0].values, three_days["brightness_temperature"][:, 0].values], 1)
    raw = (raw - store.normalisation.mean[:, None, None]) / store.normalisation.std[:, None, None]
    ids = store.catalog["id"][::4].tolist()
    batch = Loader(store, split="train").load(ids)
    holes = 0
    for e, episode in enumerate(ids):
        row = store.catalog.iloc[episode]
        for windows, starts in ((batch.support, row["support"]), (batch.query, row["query"])):
            for n, start in enumerate(starts):
                wide = raw[start : start + 5, :, row["y0"] - 3 : row["y0"] + 13, row["x0"] - 3 : row["x0"] + 13]
                inputs, targets = wide[:2].reshape(4, 16, 16), wide[2:, :, 3:-3, 3:-3].reshape(6, 10, 10)
                seen = ~np.isnan(inputs)
                np.testing.assert_allclose(windows.x[e, n, :4], np.where(seen, inputs, 0), atol=2e-5)
                np.testing.assert_allclose(windows.x[e, n, 4], seen.mean(0), atol=1e-6)
                np.testing.assert_array_equal(windows.mask[e, n], ~np.isnan(targets))
                np.testing.assert_allclose(windows.y[e, n], np.nan_to_num(targets), atol=2e-5)
                holes += int((~seen).sum())
    assert holes > 100, "the archive's hole is in the batch"
    assert batch.support.x.shape == (len(ids), 2, 5, 16, 16)
    assert batch.query.y.shape == batch.query.mask.shape == (len(ids), 3, 6, 10, 10)
    assert batch.query.init_time.shape == (len(ids), 3)


def test_a_step_is_a_function_of_seed_and_step(store: EpisodeStore) -> None:
    make: Callable[..., Loader] = lambda **k: Loader(store, split="train", **({"batch_size": 4, "seed": 3} | k))  # noqa: E731
    steps = [make().batch(i) for i in range(7)]
    resumed = list(make().stream(3, 7))
    assert all(same(a, b) for a, b in zip(steps[3:], resumed, strict=True))
    seen = [i for step in steps for i in step.ids]
    assert sorted(seen[:13]) == sorted(store.ids("train").tolist()), "an epoch takes every episode once"
    assert seen[:13] != seen[13:26]
    assert [make(seed=4).ids(i) for i in range(3)] != [make().ids(i) for i in range(3)]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_global_batch(store: EpisodeStore, world: int) -> None:
    whole = Loader(store, split="train", batch_size=4, seed=9, augment=True)
    parts = [Loader(store, split="train", batch_size=4, seed=9, augment=True, rank=r, world_size=world)
             for r in range(world)]  # fmt: skip
    for step in (0, 5):
        pieces = [part.batch(step) for part in parts]
        assert sum((p.ids for p in pieces), ()) == whole.ids(step)
        assert torch.equal(torch.cat([p.query.x for p in pieces]), whole.batch(step).query.x)


def test_augmentation_is_one_symmetry_for_all_of_an_episode(store: EpisodeStore) -> None:
    plain = Loader(store, split="train", batch_size=4, seed=1)
    varied = Loader(store, split="train", batch_size=4, seed=1, augment=True)
    found = set()
    for step in range(8):
        a, b = plain.batch(step), varied.batch(step)
        assert a.ids == b.ids
        for e in range(4):
            pairs = [
                (getattr(getattr(a, part), name)[e].numpy(), getattr(getattr(b, part), name)[e].numpy())
                for part in ("support", "query")
                for name in ("x", "y", "mask")
            ]
            matches = [s for s in range(8) if all(np.array_equal(turned(p, s), q) for p, q in pairs)]
            assert len(matches) == 1
            found.add(matches[0])
    assert len(found) >= 6
    assert same(varied.load([0, 1]), plain.load([0, 1]))


def test_the_eight_symmetries_are_different_and_form_the_square() -> None:
    square = np.arange(9, dtype=np.uint16).reshape(3, 3)
    images = {turned(square, s).tobytes() for s in range(8)}
    assert len(images) == 8
    again = {turned(turned(square, a), b).tobytes() for a in range(8) for b in range(8)}
    assert again == images


def test_held_out_episodes_can_be_chosen_and_an_empty_choice_is_refused(store: EpisodeStore) -> None:
    chosen = Loader(store, split="test", holdout="both")
    assert set(chosen.episodes) == set(store.catalog.query("split == 'test' and holdout == 'both'")["id"])
    with pytest.raises(ValueError, match="no episode of split 'tset'"):
        Loader(store, split="tset")
    with pytest.raises(ValueError, match="cannot be shared"):
        Loader(store, split="train", batch_size=3, world_size=2)


def test_an_error_while_prefetching_reaches_the_consumer(store: EpisodeStore, monkeypatch: Any) -> None:
    loader = Loader(store, split="train", batch_size=2)
    monkeypatch.setattr(store, "read", lambda ids: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        next(iter(loader.stream(0, 3)))
    monkeypatch.undo()
    stream = loader.stream(0, 50)
    assert next(stream).ids == loader.ids(0)
    stream.close()  # leaves no thread behind
    import threading

    assert not [t for t in threading.enumerate() if t.name == "episodes"]
