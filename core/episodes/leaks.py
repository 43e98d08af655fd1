"""The proof, from a catalog alone, that no episode of a store has seen what another is tested on."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.episodes.tables import rows

ORDER = ("train", "validation", "test")


def leaks(catalog: pd.DataFrame) -> list[str]:
    """Every broken rule in words; an empty list is the proof. O(distinct tiles^2 + distinct windows).

    Within an episode, every support frame comes before every query frame, by more than the gap. Between splits
    (validation against train, test against both): what is held out in region shares no pixel with the other, margins
    included and the buffer kept; what is held out in time shares no frame time, the buffer kept.
    """
    found = _order(catalog)
    for later in ORDER[1:]:
        held = catalog[catalog["split"] == later]
        other = catalog[catalog["split"].isin(ORDER[: ORDER.index(later)])]
        if held.empty or other.empty:
            continue
        in_space = held[held["holdout"].isin(["region", "both"])]
        in_time = held[held["holdout"].isin(["time", "both"])]
        unknown = held[~held["holdout"].isin(["region", "time", "both"])]
        found += [f"episode {i} of {later} is held out in nothing" for i in unknown["id"]]
        found += _shared_pixels(in_space, other) + _shared_times(in_time, other)
    return found


def _order(catalog: pd.DataFrame) -> list[str]:
    found = []
    for row in rows(catalog):
        if not len(row.support):
            continue
        last = max(row.support) + (row.window_frames - 1) * row.step_slots
        if min(row.query) < last + row.step_slots + row.gap_slots:
            found.append(f"episode {row.id}: its query begins at slot {min(row.query)}, support ends at {last}")
    return found


def _shared_pixels(held: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """Pairs of tiles that overlap or lie too near, one line for each tile held out."""
    found = []
    theirs = _boxes(other)
    for box, ids in _grouped(held):
        reach = int(box[4])
        near = (
            (theirs[:, 0] < box[1] + reach)
            & (box[0] < theirs[:, 1] + reach)
            & (theirs[:, 2] < box[3] + reach)
            & (box[2] < theirs[:, 3] + reach)
        )
        if near.any():
            culprit = int(other["id"].to_numpy()[near][0])
            found.append(f"episode {ids[0]} ({_name(held, ids[0])}) shares pixels with episode {culprit}")
    return found


def _boxes(table: pd.DataFrame) -> NDArray[np.int64]:
    """Footprints (n, 5): first and last+1 row, first and last+1 column, and the buffer to keep."""
    y0, x0, tile, margin, buffer = (
        table[name].to_numpy(np.int64) for name in ("y0", "x0", "tile_pixels", "margin_pixels", "buffer_pixels")
    )
    return np.stack([y0 - margin, y0 + tile + margin, x0 - margin, x0 + tile + margin, buffer], axis=1)


def _grouped(table: pd.DataFrame) -> list[tuple[NDArray[np.int64], list[int]]]:
    boxes, which = np.unique(_boxes(table), axis=0, return_inverse=True)
    ids = table["id"].to_numpy()
    return [(box, ids[which.ravel() == i].tolist()) for i, box in enumerate(boxes)]


def _shared_times(held: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    theirs = np.unique(np.concatenate([_slots(row) for row in rows(other)]))
    found = []
    for row in rows(held):
        mine = _slots(row)
        at = np.searchsorted(theirs, mine)
        after = theirs[np.minimum(at, len(theirs) - 1)]
        before = theirs[np.maximum(at - 1, 0)]
        distance = int(np.minimum(abs(after - mine), abs(mine - before)).min())
        if distance < max(int(row.buffer_slots), 1):
            found.append(f"episode {row.id} ({_name(held, row.id)}) lies {distance} slots from a time of another split")
    return found


def _slots(row: Any) -> NDArray[np.int64]:
    starts = np.concatenate([np.asarray(row.support, np.int64), np.asarray(row.query, np.int64)])
    return (starts[:, None] + np.arange(row.window_frames) * row.step_slots).ravel()


def _name(table: pd.DataFrame, episode: int) -> str:
    row = table[table["id"] == episode].iloc[0]
    return f"{row['split']}, held out in {row['holdout']}"
