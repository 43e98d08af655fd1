"""Pooled batches: the gradient of the windows they name, spread over the episodes."""

import numpy as np
import pytest
import torch

from core.config import NetworkConfig, TrainConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.model import DataSpec, build_learner
from core.training.pooled_windows import episodes_of_phase, pooled


def test_windows_keep_their_targets_masks_and_times(tiny_store):
    store = EpisodeStore.open(tiny_store)
    batch = Loader(store, split="train", batch_size=5).batch(0)
    found = pooled(batch, 3, seed=1, step=2)
    assert found.support.x.shape[:2] == (1, 0)
    assert found.query.x.shape[:2] == (1, 15)
    x, y, mask = (torch.cat([getattr(p, n) for p in (batch.support, batch.query)], 1) for n in ("x", "y", "mask"))
    times = np.concatenate([batch.support.init_time, batch.query.init_time], axis=1)
    for place in range(15):
        episode = place // 3
        row = int(np.flatnonzero(times[episode] == found.query.init_time[0, place])[0])
        assert torch.equal(found.query.x[0, place], x[episode, row])
        assert torch.equal(found.query.y[0, place], y[episode, row])
        assert torch.equal(found.query.mask[0, place], mask[episode, row])
    halves = pooled(batch, 2, seed=1, step=2, groups=2)
    assert halves.query.x.shape[:2] == (2, 5)
    assert torch.equal(halves.query.y.flatten(0, 1), pooled(batch, 2, seed=1, step=2).query.y[0])
    again, other = (pooled(batch, 3, seed=1, step=step) for step in (2, 3))
    assert torch.equal(again.query.x, found.query.x)
    assert not torch.equal(other.query.x, found.query.x)


def test_with_all_windows_the_gradient_is_the_pooled_learners(tiny_store):
    store = EpisodeStore.open(tiny_store)
    config = TrainConfig(learner="pooled", network=NetworkConfig(width=4, depth=1))
    learner = build_learner(config, DataSpec.of(store))
    state = learner.init_state()
    batch = Loader(store, split="train", batch_size=3).batch(0)
    whole, metrics = learner.gradient(state, batch, seed=0)
    mixed, mixed_metrics = learner.gradient(state, pooled(batch, 99, seed=0, step=0), seed=0)
    torch.testing.assert_close(mixed_metrics["loss"], metrics["loss"] / 3)
    for name, leaf in whole.items():
        torch.testing.assert_close(mixed[name], leaf / 3, rtol=1e-3, atol=1e-6, msg=name)


def test_phases_share_no_frame(tiny_store):
    store = EpisodeStore.open(tiny_store)
    everything = store.ids("train")
    assert np.array_equal(episodes_of_phase(store, 1.0, "meta"), everything)
    early, late = (episodes_of_phase(store, 0.6, phase) for phase in ("pooled", "meta"))
    assert len(early)
    assert len(late)
    frames = store.spec.input_frames + store.spec.target_frames

    def slots(ids):
        starts = np.concatenate(
            [np.concatenate([*row]) for row in store.catalog.loc[ids, ["support", "query"]].to_numpy()]
        )
        return {int(start) + i for start in starts for i in range(frames)}

    assert max(slots(early)) < min(slots(late))
    with pytest.raises(FewcastError, match="no training episode is left for the pooled steps"):
        episodes_of_phase(store, 0.001, "pooled")
