"""A run on episodes that are normalised otherwise, or cut otherwise, than those it was trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.config import EvaluateConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.model import DataSpec, Model
from core.verify.rows import Plan, learned_rows
from core.verify.scoring import fit_dressing, score_episodes
from core.verify.units import Units, require_fit


@pytest.fixture(scope="module")
def others(chain, tmp_path_factory) -> EpisodeStore:
    """The same episodes with another mean and std."""
    url = tmp_path_factory.mktemp("others") / "episodes.zarr"
    shutil.copytree(chain.store, url)
    root = Path(url, "zarr.json")
    document = json.loads(root.read_text())
    document["attributes"]["fewcast_episodes"]["normalisation"] = {"mean": [247.0], "std": [31.0]}
    root.write_text(json.dumps(document))
    return EpisodeStore.open(str(url))


def test_windows_are_those_that_the_run_was_trained_on(chain, others):
    store = EpisodeStore.open(chain.store)
    ids = store.ids("test")[:2]
    expected, found = (Loader(s, split="test").load(ids).query for s in (store, others))
    units = Units.between(DataSpec.of(store), others)
    for e in range(2):
        own, other = (replace(w, x=w.x[e], y=w.y[e], mask=w.mask[e]) for w in (expected, found))
        assert bool((own.x[:, 2] < 1).any())  # a missing input stays 0
        mapped = units.windows(other, store.spec.input_frames)
        np.testing.assert_allclose(mapped.x, own.x, atol=1e-5)
        np.testing.assert_allclose(mapped.y, own.y, atol=1e-5)
    assert Units.between(DataSpec.of(store), store).same
    assert not units.same


def test_forecasts_are_the_same_in_kelvin(chain, others):
    scores = []
    for url in (chain.store, others.url):
        config = EvaluateConfig(run=chain.run, episodes=url, shuffled=False, support_curve=[1])
        store = EpisodeStore.open(url)
        plan = Plan(tuple(learned_rows(config)), fit_dressing(store, 0), True, 3, 0)
        windows, failed = score_episodes(url, plan, store.ids("test").tolist()[:2])
        assert not failed
        windows = windows[windows["learner"].isin([row.name for row in plan.rows])]  # baselines fill gaps by the mean
        scores.append(windows.assign(crps=windows["crps"] * store.normalisation.std[0]))
    here, there = scores
    assert here["learner"].nunique() == 5
    np.testing.assert_allclose(here["crps"], there["crps"], rtol=1e-4)
    np.testing.assert_allclose(here["inside_90%"], there["inside_90%"], atol=1.1)  # a pixel at the edge of an interval


@pytest.mark.parametrize("change", [{"margin_pixels": 0}, {"lead_minutes": (30, 90)}, {"tile_pixels": 16}])
def test_windows_of_another_shape_are_refused_in_one_line(chain, change):
    spec = replace(Model.load(chain.run).spec, **change)
    [(name, value)] = change.items()
    with pytest.raises(FewcastError, match="does not fit the episodes") as error:
        require_fit(chain.run, spec, EpisodeStore.open(chain.store))
    assert f"{name} {value} in the run" in str(error.value)
    assert "\n" not in str(error.value)
