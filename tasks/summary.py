"""What a stage did, as a line for a person and as an artifact on its run."""

import dataclasses
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact


def lines(summary: Any) -> dict[str, str]:
    """The fields of a summary that a person wants to read; mappings as `key value, key value`."""
    return {field.name: _text(getattr(summary, field.name)) for field in dataclasses.fields(summary) if field.repr}


def sentence(summary: Any) -> str:
    return "; ".join(f"{key} {value}" for key, value in lines(summary).items())


def publish(key: str, summary: Any, **more: str) -> None:
    """Put a summary on the run as a table."""
    rows = {**lines(summary), **more}
    table = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in rows.items())
    create_markdown_artifact(f"| {key} | |\n|---|---|\n{table}\n", key=key)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if not isinstance(value, Path) else value.as_posix()
