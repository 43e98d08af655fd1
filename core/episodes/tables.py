"""Tables of contexts and episodes: their rows, and their bytes as Parquet."""

import io
from collections.abc import Iterator
from typing import Any

import pandas as pd

from core.archive.objects import Objects
from core.errors import FewcastError


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples."""
    return table.itertuples(index=False)


def read_table(objects: Objects, key: str) -> pd.DataFrame:
    """A stored table; `FewcastError` where it is missing."""
    data = objects.get(key)
    if data is None:
        raise FewcastError(f"the episode store {objects.url} is damaged", found=f"no {key}", mend="build it anew")
    return pd.read_parquet(io.BytesIO(data))


def table_bytes(table: pd.DataFrame) -> bytes:
    """A table as Parquet, the same bytes for the same table."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
