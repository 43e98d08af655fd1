"""What is shown of a window is what was scored, the baselines beside the learner, each with its name."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.report import Silent
from core.verify.animation import animation
from core.verify.baselines import OPTICAL_FLOW, STEPS
from core.verify.domain import StepsSettings
from core.verify.domain_rows import Job, score_starts, window_forecasts
from core.verify.ensemble import Ensemble
from core.verify.events import Event
from core.verify.mixture import Mixture
from core.verify.panels import panels
from core.verify.plots import forecast_sheet
from core.verify.scoring import episode_of


@pytest.fixture
def store(chain) -> EpisodeStore:
    return EpisodeStore.open(chain.store)


@pytest.fixture
def query(store):
    """Of the first test episode: windows (N, ...)."""
    return episode_of(Loader(store, split="test").load(store.ids("test")[:1].tolist()).query, 0)


def test_a_domain_forecast_that_is_shown_is_the_one_that_was_scored(chain, store, tmp_path):
    job = Job(chain.archive, chain.store, "steps", StepsSettings(), 3, 7, ())
    scored = score_starts(job, store, "test", str(tmp_path), Silent(), most=1)
    episode, window = (int(scored[name].iloc[-1]) for name in ("episode", "window"))
    shown = window_forecasts([job], store, episode, window)[STEPS]
    truth = episode_of(Loader(store, split="test").load([episode]).query, 0)
    crps = torch.where(truth.mask[window], shown.crps(truth.y[window]), 0).sum((-2, -1))
    own = scored[(scored["episode"] == episode) & (scored["window"] == window)]
    np.testing.assert_allclose(crps, own["crps"], rtol=1e-5)


def test_the_baselines_are_shown_beside_the_truth_and_the_learner_in_physical_units(store, query):
    generator = torch.Generator().manual_seed(0)
    n, outputs, height, width = query.y.shape
    learned = Mixture(torch.randn(3, n, outputs, height, width, generator=generator), torch.full((outputs, 1, 1), 0.5))
    beside = {
        name: Ensemble(torch.randn(members, outputs, height, width, generator=generator))
        for name, members in ((OPTICAL_FLOW, 1), (STEPS, 4))
    }
    event = Event("cold", 0, -1.0, False)
    inputs, shown = panels(query, 1, "abml, M = 1", learned, store, event, beside)
    assert [panel.title for panel in shown] == [
        "truth", "abml, M = 1: mean", "optical flow", "STEPS: mean", "persistence",
        "spread (std)", "chance: cold", "abml, M = 1: member 1", "abml, M = 1: member 2", "STEPS: member 1",
    ]  # fmt: skip
    by_title = {panel.title: panel for panel in shown}
    mean, std = float(store.normalisation.mean[0]), float(store.normalisation.std[0])
    for title, values in (
        ("abml, M = 1: mean", learned.mean()[1]), ("optical flow", beside[OPTICAL_FLOW].members[0]),
        ("STEPS: mean", beside[STEPS].mean()), ("STEPS: member 1", beside[STEPS].members[0]),
    ):  # fmt: skip
        np.testing.assert_allclose(by_title[title].values, values.numpy() * std + mean, rtol=1e-5)
        assert by_title[title].measure is None
    chance = 1 - learned.exceedance(-1.0)[1].numpy()
    np.testing.assert_allclose(by_title["chance: cold"].values, chance, rtol=1e-5)
    kind = store.spec.kinds[0]
    with Image.open(io.BytesIO(animation(inputs, shown, store.lead_minutes, kind))) as moving:
        assert moving.n_frames == store.spec.input_frames + store.spec.target_frames
        assert moving.width < 1100
        first = np.asarray(moving.convert("RGB"))
        moving.seek(moving.n_frames - 1)
        assert (first != np.asarray(moving.convert("RGB"))).any()
    sheet = forecast_sheet(inputs, shown, store.lead_minutes, kind)
    labels = dict.fromkeys(axis.get_ylabel().replace(":\n", ": ") for axis in sheet.axes)  # of colour bars too
    assert [panel.title for panel in shown] == [label for label in labels if label in by_title]
