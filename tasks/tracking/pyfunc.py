"""A trained run as MLflow loads it: models from code, so that nothing is unpickled."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from core.meta.checks import Examples
from core.model import Model


class Nowcast(PythonModel):  # type: ignore[misc]
    """Adapt to the support windows, forecast the query windows; arrays in and out are normalised.

    `params`: members (20), steps (as trained), seed (0).
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.model = Model.load(Path(context.artifacts["checkpoint"]).parent)

    def predict(
        self, context: PythonModelContext, model_input: dict[str, np.ndarray], params: dict[str, Any] | None = None
    ) -> dict[str, np.ndarray]:
        asked = params or {}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in model_input.items()}
        support = Examples(tensors["support_x"], tensors["support_y"], tensors["support_mask"])
        posterior = self.model.adapt(support, asked.get("steps"))
        mixture = self.model.predict(posterior, tensors["x"], asked.get("members", 20), asked.get("seed", 0))
        return {"mean": mixture.mean.numpy(), "std": mixture.variance.sqrt().numpy()}


set_model(Nowcast())
