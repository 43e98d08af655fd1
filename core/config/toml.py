"""A TOML file and overrides to a validated configuration, or one clear line about what is wrong with it."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from core.config.pipeline import EvaluationConfig, PipelineConfig
from core.config.problems import problems
from core.errors import FewcastError

C = TypeVar("C", PipelineConfig, EvaluationConfig)


def load(path: Path, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Read a TOML file and apply `stage.key=value` overrides (values in TOML syntax, or bare words).

    Raises `FewcastError` with one clear line for a file that is not TOML, an unknown key, or a value out of bounds.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise FewcastError(
            f"cannot read the configuration {path}",
            found=error.strerror or str(error),
            mend="give the path of a TOML file",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise FewcastError(f"{path} is not valid TOML", found=str(error), mend="correct that line") from error
    return _validated(values, overrides, path.name, PipelineConfig)


def change(config: PipelineConfig, overrides: Iterable[str]) -> PipelineConfig:
    """The same config with `stage.key=value` overrides, validated anew; raises as `load` does."""
    return _validated(config.model_dump(), overrides, config.name, PipelineConfig)


def evaluation(model: str, episodes: str, overrides: Iterable[str] = ()) -> EvaluationConfig:
    """The config of an evaluation by itself; its scorecard is named by both unless one is given."""
    places = {"run": model, "episodes": episodes, "scorecard": f"data/scorecards/{scorecard_name(model, episodes)}"}
    values = {"evaluate": places, "tracking": {"experiment": "evaluations"}}
    return _validated(values, overrides, "of this evaluation", EvaluationConfig)


def scorecard_name(model: str, episodes: str) -> str:
    """What an evaluation of a model on episodes that are no preset's own is called among others."""
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in (model, "on", episodes))


def _validated(values: dict[str, Any], overrides: Iterable[str], name: str, kind: type[C]) -> C:
    for override in overrides:
        _override(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise FewcastError(
            f"the configuration {name} is not valid",
            found=_first_problem(error, kind),
            mend="see `fewcast config` for every key with its bounds",
        ) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise FewcastError("--set needs key=value", found=repr(override), mend="write, say, --set train.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    table = values
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise FewcastError(
                f"--set {key}: {part} is a value, not a table", found=repr(table), mend="name a key of PipelineConfig"
            )
    table[name] = value


def _first_problem(error: ValidationError, kind: type[BaseModel]) -> str:
    first, *others = problems(error, kind)
    return f"{first.key}: {first.found}" + (f" and {len(others)} more" if others else "")
