"""A registered model, as whoever loads it from MLflow sees it."""

from pathlib import Path

import mlflow.pyfunc
import numpy as np
import torch

from core.config import InnerConfig, NetworkConfig, TrackingConfig, TrainConfig
from core.meta import checkpoint
from core.meta.checks import Examples
from core.model import DataSpec, Model, as_pooled, build_learner
from tasks.tracking import TrackedRun
from tasks.tracking.model import save
from tasks.tracking.server import open_client

SPEC = DataSpec(("ir",), 2, 2, (30, 60), 12, 0, (270.0,), (10.0,))


def untrained(run: Path, phase: str = "meta") -> Model:
    config = TrainConfig(network=NetworkConfig(width=4, depth=1), inner=InnerConfig(steps=2, rate=0.1))
    meta = {
        "config": config.model_dump(mode="json"),
        "spec": SPEC.to_json(),
        "phase": phase,
        "best_step": None,
        "episodes_digest": "d",
        "progress": {},
    }
    learner = build_learner(as_pooled(config) if phase == "pooled" else config, SPEC)
    checkpoint.save(run, 1, learner.init_state().tensors(), meta)
    return Model.load(run)


def test_the_parameters_of_a_forecast_reach_the_model(tmp_path: Path) -> None:
    model = untrained(tmp_path / "run")
    save(model, tmp_path / "model", "a card")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    generator = torch.Generator().manual_seed(0)
    x, support_x = torch.randn(1, 3, 12, 12, generator=generator), torch.randn(2, 3, 12, 12, generator=generator)
    support = Examples(support_x, support_x[:, :2] + 1, torch.ones(2, 2, 12, 12, dtype=torch.bool))
    arrays = {"support_x": support.x, "support_y": support.y, "support_mask": support.mask, "x": x}
    inputs = {name: tensor.numpy() for name, tensor in arrays.items() if tensor is not None}
    for given, steps, members, seed in (
        ({}, 2, 20, 0),
        ({"steps": 0}, 0, 20, 0),
        ({"members": 3, "seed": 7}, 2, 3, 7),
    ):
        expected = model.predict(model.adapt(support, steps, seed=seed), x, members, seed).mean().numpy()
        np.testing.assert_allclose(loaded.predict(inputs, params=given)["mean"], expected, rtol=1e-5, atol=1e-6)


def test_a_model_of_a_run_inside_another_is_a_version_and_no_candidate(tmp_path: Path) -> None:
    tracking, model = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="sky"), tmp_path / "model"
    save(untrained(tmp_path / "run"), model, "a card")
    for name, parent in (("alone", None), ("inside", tmp_path / "alone")):
        config = TrainConfig()
        with TrackedRun(tmp_path / name, tracking, name, config, parent=parent, patience_seconds=250.0) as run:
            run.model(model, {"checkpoint": name})
    client = open_client(tracking.uri)
    assert {item.tags["checkpoint"] for item in client.search_model_versions("name = 'sky'")} == {"alone", "inside"}
    assert client.get_model_version_by_alias("sky", "candidate").tags["checkpoint"] == "alone"
