"""A trained run as MLflow loads it: models from code, so that nothing is unpickled."""

from pathlib import Path

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from core.meta.checks import Examples
from core.model import Model


class Nowcast(PythonModel):
    """Adapt to the support windows, forecast the query windows; arrays in and out are normalised.

    `params`, as the signature has them: members of the mixture, inner steps, and the seed of both.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.model = Model.load(Path(context.artifacts["checkpoint"]).parent)

    # Without hints: MLflow takes them for a schema of its own, beside the signature.
    def predict(self, context, model_input, params=None):
        asked = {name: int(value) for name, value in (params or {}).items()}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in model_input.items()}
        support = Examples(tensors["support_x"], tensors["support_y"], tensors["support_mask"])
        posterior = self.model.adapt(support, asked["steps"], seed=asked["seed"])
        mixture = self.model.predict(posterior, tensors["x"], asked["members"], asked["seed"])
        return {"mean": mixture.mean().numpy(), "std": mixture.variance().sqrt().numpy()}


set_model(Nowcast())
