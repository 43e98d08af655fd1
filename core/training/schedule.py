"""The outer step size, a function of the step alone, so that a resumed run sees the same one."""

import math

from core.config import TrainConfig

_RESERVE = 0.15
_FLOOR = 0.01  # of the full step size, at the end of a cosine


def is_pretraining(config: TrainConfig, step: int) -> bool:
    """Whether `step`, counted from 0, is one of the pooled steps that come first."""
    return step < config.pretrain_steps


def total_steps(config: TrainConfig) -> int:
    """Pooled steps and meta-steps together."""
    return config.pretrain_steps + config.steps


def fitted(config: TrainConfig, fraction: float) -> TrainConfig:
    """The config with `fraction` of the steps of either phase."""
    steps, pooled = max(round(config.steps * fraction), 1), round(config.pretrain_steps * fraction)
    return config.model_copy(update={"steps": steps, "pretrain_steps": pooled})


def fraction_that_fits(config: TrainConfig, pooled_seconds: float, meta_seconds: float) -> float:
    """The fraction of the steps, in twentieths, that the budget has room for, with a reserve for validation."""
    needed = config.pretrain_steps * pooled_seconds + config.steps * meta_seconds
    room = (1 - _RESERVE) * config.budget_minutes * 60 / max(needed, 1e-9)
    return min(max(math.floor(20 * room), 1), 20) / 20


def learning_rate(config: TrainConfig, step: int) -> float:
    """The step size of `step`: in each phase a linear warm-up, then a cosine down to a hundredth, or flat."""
    if is_pretraining(config, step):
        peak, done, length = config.pretrain_rate, step, config.pretrain_steps
    else:
        peak, done, length = config.learning_rate, step - config.pretrain_steps, config.steps
    warmup = min(config.warmup_steps, length // 2)
    if done < warmup:
        return peak * (done + 1) / warmup
    if config.decay == "none":
        return peak
    fraction = min((done - warmup) / max(length - warmup, 1), 1.0)
    return peak * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * fraction)))
