"""The survey of slots that have not changed is remembered beside the store, so that a second run reads no frame."""

import hashlib
import io
import json
import zipfile
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.archive.objects import Objects
from core.episodes.frames import Frames
from core.episodes.survey import FIELDS, Survey, survey
from core.report import Report

KEY = "survey.npz"


def remembered_survey(
    objects: Objects, frames: Frames, slots: NDArray[np.int64], tiles: pd.DataFrame, tile_pixels: int, step: int, *,
    client: Any = None, report: Report | None = None,
) -> Survey:  # fmt: skip
    """What `survey` gives, reading only the slots whose frame, or the frame before it, was written since.

    Whether a frame was written is judged by its shard's size and time of writing (or ETag), for each slot anew.
    """
    marks = _marks(frames, slots, step)
    subject = _subject(frames, tiles, tile_pixels, step)
    old = _load(objects, subject)
    place = (
        {} if old is None else {(int(s), m): i for i, (s, m) in enumerate(zip(old["slots"], old["marks"], strict=True))}
    )
    at = np.array([place.get((int(slot), mark), -1) for slot, mark in zip(slots, marks, strict=True)])
    todo = slots[at < 0]
    if old is not None and not len(todo):
        return _take(old, at, slots, tile_pixels)
    fresh = survey(frames, todo, tiles, tile_pixels, step, known=slots, client=client, report=report)
    if old is None:
        found = fresh
    else:
        kept = _take(old, at[at >= 0], slots[at >= 0], tile_pixels)
        order = np.argsort(np.concatenate([kept.slots, todo]))
        parts = {n: np.concatenate([getattr(kept, n), getattr(fresh, n)])[order] for n in (*FIELDS, "digest")}
        found = Survey(slots=slots, pixels=tile_pixels**2, **parts)
    buffer = io.BytesIO()
    arrays = {name: getattr(found, name) for name in (*FIELDS, "digest")}
    np.savez(buffer, subject=np.array(subject), slots=slots, marks=marks, **arrays)
    objects.put(KEY, buffer.getvalue())
    return found


def _marks(frames: Frames, slots: NDArray[np.int64], step: int) -> NDArray[Any]:
    """One hash a slot (S,): of its own shards' writing and of the shards that its change is measured from."""
    written = frames.written(slots.tolist())
    known = dict(zip(slots.tolist(), written, strict=True))
    texts = [f"{known[slot]}|{known.get(slot - step, '')}" for slot in slots.tolist()]
    return np.array([hashlib.blake2b(text.encode(), digest_size=12).hexdigest() for text in texts])


def _subject(frames: Frames, tiles: pd.DataFrame, tile_pixels: int, step: int) -> str:
    places = tiles[["y0", "x0"]].to_numpy().tolist()
    what = [frames.archive.url, frames.channels, places, tile_pixels, step, FIELDS]
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()


def _load(objects: Objects, subject: str) -> dict[str, NDArray[Any]] | None:
    data = objects.get(KEY)
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return None  # torn or foreign: only time is lost
    return arrays if str(arrays.get("subject")) == subject else None


def _take(old: dict[str, NDArray[Any]], at: NDArray[np.int64], slots: NDArray[np.int64], tile_pixels: int) -> Survey:
    parts = {name: old[name][at] for name in (*FIELDS, "digest")}
    return Survey(slots=slots, pixels=tile_pixels**2, **parts)
