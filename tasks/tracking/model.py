"""A trained run as a model in MLflow's registry: signature, card, and the alias `candidate`."""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from core.model import Model

ALIAS = "candidate"


def save(model: Model, folder: Path, card: str) -> None:
    """Write `model` as a pyfunc model with its checkpoint and its card; the folder appears whole or not at all."""
    beside = folder.with_name(f".writing-{folder.name}")
    for old in (beside, folder):
        shutil.rmtree(old, ignore_errors=True)
    mlflow.pyfunc.save_model(
        str(beside),
        python_model=str(Path(__file__).with_name("pyfunc.py")),
        artifacts={"checkpoint": str(model.path)},
        signature=signature(model),
        metadata={"input_planes": list(model.input_planes)},
        pip_requirements=[f"{name}=={version(name)}" for name in ("fewcast", "torch", "numpy", "safetensors")],
    )
    (beside / "card.md").write_text(card)
    beside.rename(folder)


def signature(model: Model) -> ModelSignature:
    """Support and query windows in, mean and standard deviation out, all normalised; -1 is any size.

    MLflow leaves out whatever parameter it does not find here, and gives the others these values by default.
    """
    spec = model.spec
    inputs = len(model.input_planes)
    outputs = spec.target_frames * len(spec.channels)
    tensors = {
        "support_x": (inputs, np.float32),
        "support_y": (outputs, np.float32),
        "support_mask": (outputs, np.bool_),
        "x": (inputs, np.float32),
    }
    parameters = {"members": 20, "steps": model.inner_steps, "seed": 0}
    return ModelSignature(
        Schema([TensorSpec(np.dtype(kind), (-1, planes, -1, -1), name) for name, (planes, kind) in tensors.items()]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, outputs, -1, -1), name) for name in ("mean", "std")]),
        ParamSchema([ParamSpec(name, "long", value) for name, value in parameters.items()]),
    )


def register(
    client: MlflowClient, run_id: str, folder: Path, name: str, tags: Mapping[str, str], *, is_candidate: bool
) -> None:
    """Upload a saved model to its run and make it a version, the newest candidate if it is one.

    A version that is there is not made again.
    """
    client.log_artifacts(run_id, str(folder), "model")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = client.search_model_versions(f"name = '{name}'")
    found = [item for item in there if item.tags.get("checkpoint") == tags["checkpoint"] and item.run_id == run_id]
    made = (
        found[0]
        if found
        else client.create_model_version(
            name,
            f"{client.get_run(run_id).info.artifact_uri}/model",
            run_id,
            tags=dict(tags),
            description=(folder / "card.md").read_text(),
        )
    )
    if is_candidate:
        client.set_registered_model_alias(name, ALIAS, made.version)
