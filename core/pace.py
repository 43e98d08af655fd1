"""How fast a run goes, and the means of its metrics between two reports."""

from collections.abc import Callable


class Pace:
    """Means of the metrics since the last report, and the speed without what is not training."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.steps_per_second = clock, 0.0
        self._sums: dict[str, float] = {}
        self._steps, self._seconds, self._mark = 0, 0.0, clock()

    def count(self, means: dict[str, float]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in means.items()}
        self._steps += 1
        self._seconds += self.clock() - self._mark
        self._mark = self.clock()

    def pause(self) -> None:
        """What passed since the last step is not training."""
        self._mark = self.clock()

    def read(self) -> dict[str, float]:
        means = {name: value / self._steps for name, value in self._sums.items()}
        means["steps_per_second"] = self.steps_per_second = self._steps / max(self._seconds, 1e-9)
        self._sums, self._steps, self._seconds = {}, 0, 0.0
        return means
