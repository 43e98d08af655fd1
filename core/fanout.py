"""Many calls at once: on threads of this machine, or on a Dask cluster when there is one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import dask
import dask.threaded
from dask.callbacks import Callback

from core.pool import Pool
from core.report import Report, Silent

T = TypeVar("T")


def fan_out(
    call: Callable[..., T], items: Sequence[Any], *, client: Any = None, report: Report | None = None, note: str = ""
) -> list[T]:
    """`[call(item) for item in items]` with Dask: threads where `client` is None, else that distributed client.

    Raises `FewcastError` where the cluster is lost, has no workers, or loses every worker that takes up some item.
    """
    report = report or Silent()
    if not items:
        return []
    if client is None:
        with _Progress(report, len(items), note):
            # Bound beforehand, since Dask would search every argument for collections of its own.
            tasks = [dask.delayed(partial(call, item), pure=False)() for item in items]
            return list(dask.compute(*tasks, scheduler=dask.threaded.get))
    with ExitStack() as stack:
        pool = Pool(lambda: client, len(items), stack)
        places = {pool.submit(call, item): place for place, item in enumerate(items)}
        found: dict[int, T] = {}
        try:
            while len(found) < len(items):
                for future in pool.finished(places):
                    place = places.pop(future)
                    found[place] = pool.result(future, f"{note}, part {place + 1} of {len(items)}")
                    report.progress(len(found), len(items), note)
        finally:
            pool.give_up(places)  # or the cluster would write on behind our back
    return [found[place] for place in range(len(items))]


class _Progress(Callback):
    """Tells the report of every finished item."""

    def __init__(self, report: Report, total: int, note: str) -> None:
        super().__init__(posttask=self._finished)
        self.report, self.total, self.note, self.done = report, total, note, 0

    def _finished(self, *_: Any) -> None:
        self.done = min(self.done + 1, self.total)
        self.report.progress(self.done, self.total, self.note)


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive pieces of at most `size` items."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
