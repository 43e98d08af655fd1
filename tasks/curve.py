"""The loss curve on a training run's page, redrawn now and then while it trains."""

import contextvars
import threading
import time
from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from core.report import Silent
from tasks.pictures import publish_figure

_CURVES = {"train/loss": "training loss", "validation/crps": "validation CRPS, adapted",
           "validation/prior_crps": "validation CRPS, M = 0"}  # fmt: skip


class Curve(Silent):
    """A report that draws; at most every `every_seconds`, and at the end.

    It goes on from the (step, values) that earlier processes reported, of which a resumed run may repeat some.
    """

    def __init__(self, before: Iterable[tuple[int, Mapping[str, float]]] = (), every_seconds: float = 60.0) -> None:
        self._every, self._drawn = every_seconds, time.monotonic()
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._points: dict[str, list[tuple[int, float]]] = {}
        for step, values in before:
            self._add(values, step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        with self._lock:
            self._add(values, step)
            if time.monotonic() - self._drawn >= self._every:
                self._context.run(self._draw)

    def _add(self, values: Mapping[str, float], step: int) -> None:
        for name in _CURVES.keys() & values.keys():
            points = self._points.setdefault(name, [])
            while points and points[-1][0] >= step:
                points.pop()
            points.append((step, values[name]))

    def close(self) -> None:
        with self._lock:
            if self._points:
                self._context.run(self._draw)

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        publish_figure("train-curve", draw(self._points), "Loss and validation score against the step of training")


def draw(points: Mapping[str, list[tuple[int, float]]]) -> Figure:
    """Loss above, validation CRPS below, against the step."""
    figure = Figure(figsize=(8, 5))
    panels = figure.subplots(2, 1, sharex=True)
    for name, label in _CURVES.items():
        steps, values = zip(*points.get(name, [(0, float("nan"))]), strict=True)
        panels[int(name != "train/loss")].plot(steps, values, label=label, marker=".", markersize=3)
    for panel in panels:
        panel.legend(loc="upper right")
        panel.grid(alpha=0.3)
    panels[1].set_xlabel("step")
    return figure
