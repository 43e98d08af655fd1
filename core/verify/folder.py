"""Where a scorecard is kept: a folder of this machine, or a remote one with a copy here."""

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from core.archive.objects import open_objects
from core.verify import tables
from core.verify.verdicts import heading, verdicts

INPUTS = "inputs.json"
_MOVING = "moving-*.png"
# What a new scorecard takes away of an old one: infra/s3/writer.json lets a writer do so.
OWN = ("scorecard.html", "scorecard.md", "scorecard.parquet", "windows.parquet", "cuts.parquet", "crps.png", "rmse.png",
       "calibration.png", "reliability.png", "texture.png", "curves.png", "forecast-*.png", _MOVING)  # fmt: skip
_COPIES = Path("data/scorecards")


@dataclass(frozen=True)
class Scorecard:
    """What an evaluation leaves: the table, and the files beside it."""

    url: str
    folder: Path  # `url` itself, or the copy of it on this machine
    figures: tuple[Path, ...]
    moving: tuple[Path, ...]  # the animated ones among them: the inputs, then a frame a lead time
    skipped: bool
    table: pd.DataFrame = field(repr=False)
    markdown: str = field(repr=False)
    terminal: str = field(repr=False)  # the compact table for the end of a command


def folder_of(url: str) -> Path:
    """Where a scorecard is made: its own folder, or for a remote one a folder of this machine named by its URL."""
    path = url.removeprefix("file://")
    return Path(path) if "://" not in path else _COPIES / re.sub(r"[^A-Za-z0-9.]+", "-", path)


def withdraw(url: str) -> None:
    """Before a scorecard is made anew: take away what is there, or an old picture would be delivered as new."""
    folder, place = folder_of(url), open_objects(url)
    folder.mkdir(parents=True, exist_ok=True)
    for end in (place, open_objects(str(folder))):
        end.delete(INPUTS)
        for key, _ in list(end.keys("")):
            if _is_own(key):
                end.delete(key)


def deliver(url: str, inputs: dict[str, Any]) -> None:
    """Say last that the files in the folder are whole, and for what inputs; a remote place gets them all before."""
    folder, place = folder_of(url), open_objects(url)
    if _is_remote(url):
        for path in files_of(folder):
            place.put(path.name, path.read_bytes())
    for end in (place, open_objects(str(folder))):
        end.put(INPUTS, json.dumps(inputs, indent=1).encode())


def finished(url: str, inputs: dict[str, Any]) -> Scorecard | None:
    """The scorecard at the URL, if it was made of just these inputs and is whole; a remote one is copied here."""
    folder = folder_of(url)
    if _is_remote(url) and not _is_made_of(inputs, open_objects(str(folder)).get(INPUTS)):
        place = open_objects(url)
        said = place.get(INPUTS)
        if not _is_made_of(inputs, said):
            return None
        here = open_objects(str(folder))
        for name in [key for key, _ in place.keys("") if "/" not in key and key != INPUTS]:
            here.put(name, place.get(name) or b"")
        here.put(INPUTS, said or b"")
    try:
        if not _is_made_of(inputs, (folder / INPUTS).read_bytes()):
            return None
        table = pd.read_parquet(folder / "scorecard.parquet")
        text = (folder / "scorecard.md").read_text()
    except (OSError, ValueError):
        return None
    terminal = "\n".join([tables.compact_table(table), "", f"{heading(table)}:", *verdicts(table)])
    figures = tuple(sorted(folder.glob("*.png")))
    moving = tuple(path for path in figures if fnmatch(path.name, _MOVING))
    return Scorecard(url, folder, figures, moving, True, table, text, terminal)


def files_of(folder: Path) -> list[Path]:
    """The scorecard's own files, in order; the kept baselines and the record for MLflow lie in folders beside them."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and _is_own(path.name)]


def _is_own(name: str) -> bool:
    """Whether a scorecard makes a file of this name; a folder may hold others."""
    return any(fnmatch(name, pattern) for pattern in OWN) and "/" not in name


def _is_remote(url: str) -> bool:
    return "://" in url.removeprefix("file://")


def _is_made_of(inputs: dict[str, Any], said: bytes | None) -> bool:
    try:
        return bool(json.loads(said or b"{}").get("digest") == inputs["digest"])
    except (ValueError, AttributeError):
        return False
