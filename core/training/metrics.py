"""What a run tells of itself, by the names that MLflow shows."""

from collections.abc import Mapping, Sequence

import torch

from core.bayes.gaussian import Tree, branch
from core.training.guards import prior_log_std
from core.training.pace import overhead
from core.training.run import Progress


def step_metrics(means: Mapping[str, float], theta: Tree, lead_minutes: Sequence[int]) -> dict[str, float]:
    """Means of the loss terms since the last report, and what has been learned so far of noise, prior std and rates."""
    stds = theta["noise/log_std"].exp().tolist()
    values = {f"train/{name}": value for name, value in means.items()}
    values |= {f"noise/std_{minutes}min": std for minutes, std in zip(lead_minutes, stds, strict=True)}
    values |= {f"prior_log_std/{layer}": value for layer, value in prior_log_std(theta).items()}
    rates = [leaf.reshape(-1) for leaf in branch(theta, "log_rate").values()]
    if rates:
        values["inner/rate"] = float(torch.cat(rates).mean().exp())
    return values


def validation_metrics(values: Mapping[str, float], progress: Progress) -> dict[str, float]:
    """A validation's scores, the best so far, and where the run's seconds went."""
    spent, best = progress.seconds, progress.best
    return (
        {f"validation/{name}": value for name, value in values.items()}
        | {f"best/{name}": best[name] for name in ("crps", "prior_crps") if name in best}
        | {"best/step": float(progress.best_step or 0)}
        | {f"time/{what}_seconds": value for what, value in spent.items()}
        | {"time/overhead": overhead(spent)}
    )
