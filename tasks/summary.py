"""What a stage did, as a table on its run."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect.artifacts import create_markdown_artifact

if TYPE_CHECKING:
    import pandas as pd


def publish(key: str, summary: Any, **more: str) -> None:
    """Put the fields of a summary on the run as a table, and its data frames below it."""
    values = {field.name: getattr(summary, field.name) for field in dataclasses.fields(summary) if field.repr}
    frames = [value for value in values.values() if _is_frame(value)]
    rows = {name: _text(value) for name, value in values.items() if not _is_frame(value)} | more
    table = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in rows.items())
    below = "".join(f"\n{_markdown(frame)}\n" for frame in frames)
    create_markdown_artifact(f"| {key} | |\n|---|---|\n{table}\n{below}", key=key)


def counts(**values: int) -> str:
    """`3 written, 2 skipped`: what is not zero."""
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in values.items() if value) or "nothing"


def _is_frame(value: Any) -> bool:
    """No value can be a data frame unless someone has imported pandas, which takes a third of a second."""
    return "pandas" in sys.modules and isinstance(value, sys.modules["pandas"].DataFrame)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, np.datetime64):
        return f"{value.astype('M8[m]').item():%Y-%m-%d %H:%M} UTC"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _markdown(frame: "pd.DataFrame") -> str:
    lines = [frame.columns.tolist(), ["---"] * len(frame.columns), *frame.to_numpy(dtype=object).tolist()]
    return "\n".join("| " + " | ".join(map(_text, line)) + " |" for line in lines)
