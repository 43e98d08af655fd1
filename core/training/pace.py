"""Where a run's time goes, how fast its steps are, and the means of its metrics between two reports."""

from collections.abc import Callable, Mapping

WORK = ("steps", "data", "validation")
"""What a run is for; the rest of its seconds is overhead."""


class Pace:
    """A stopwatch: each `lap` books what passed since the one before, so that no time of a run is left out.

    `seconds` is the account to write to: steps, data (waiting for episodes), validation, pictures, checkpoints,
    reports, start. The first lap counts from `begun`.
    """

    def __init__(self, clock: Callable[[], float], seconds: dict[str, float], begun: float) -> None:
        self.clock, self.seconds, self.steps_per_second = clock, seconds, 0.0
        self._sums: dict[str, tuple[float, int]] = {}  # of each metric, and over how many steps: not all have all
        self._steps, self._stepping, self._mark = 0, 0.0, begun

    def lap(self, what: str) -> None:
        """What passed since the last lap went to `what`."""
        now = self.clock()
        self.seconds[what] = self.seconds.get(what, 0.0) + now - self._mark
        if what in ("steps", "data"):
            self._stepping += now - self._mark
        self._mark = now

    def count(self, means: dict[str, float]) -> None:
        """A step is done."""
        for name, value in means.items():
            total, steps = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, steps + 1
        self._steps += 1
        self.lap("steps")

    def read(self) -> dict[str, float]:
        """Means since the last reading, over the steps that have a metric, and the speed of stepping alone."""
        means = {name: total / steps for name, (total, steps) in self._sums.items()}
        means["steps_per_second"] = self.steps_per_second = self._steps / max(self._stepping, 1e-9)
        self._sums, self._steps, self._stepping = {}, 0, 0.0
        return means


def trained(seconds: Mapping[str, float]) -> float:
    """How long a run has trained: all but the starts of its processes."""
    return sum(spent for what, spent in seconds.items() if what != "start")


def overhead(seconds: dict[str, float]) -> float:
    """The share of the time that is not steps, waiting for episodes, or validation."""
    total = sum(seconds.values())
    return sum(spent for what, spent in seconds.items() if what not in WORK) / total if total else 0.0
