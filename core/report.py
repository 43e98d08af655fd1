"""How `core` tells the outside what it is doing: a passed-in callback, silent by default."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@runtime_checkable
class Report(Protocol):
    """What a stage calls while it works. Implementations must be cheap and must never raise."""

    def progress(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` items are finished; `note` is a few words for a person."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Scalars at a step of training."""

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """A picture worth keeping."""

    def message(self, text: str) -> None:
        """One line for the log."""


class Silent:
    """The report that says nothing."""

    def progress(self, done: int, total: int, note: str = "") -> None: ...

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def figure(self, name: str, figure: "Figure", step: int) -> None: ...

    def message(self, text: str) -> None: ...
