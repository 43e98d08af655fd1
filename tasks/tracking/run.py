"""One MLflow run, as a `Report`."""

import contextvars
import importlib
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from pydantic import BaseModel

from core.config import TrackingConfig
from core.report import Silent
from tasks.tracking.journal import Journal, is_delivered
from tasks.tracking.provenance import Machine, environment, flatten, provenance

_LOGGER = logging.getLogger(__name__)
_MACHINE_SECONDS = 15.0


class TrackedRun(Silent):
    """One MLflow run as a context manager; it goes on where an earlier process left the same folder.

    The run ends FINISHED, FAILED on an exception, or KILLED on a signal; `goes_on` leaves it RUNNING. A `parent` is the
    folder of another tracked run, in which MLflow shows this one.
    """

    def __init__(
        self,
        folder: Path,
        tracking: TrackingConfig,
        name: str,
        config: BaseModel,
        *,
        parent: Path | None = None,
        tags: Mapping[str, str] | None = None,
        every_seconds: float = 5.0,
        patience_seconds: float = 60.0,
    ) -> None:
        self._tracking, self._name, self._parent = tracking, name, parent
        self._every, self._patience = every_seconds, patience_seconds
        self._journal = Journal(folder)
        starts = self._journal.count("start")
        resumed = {"fewcast.resumed": str(starts)} if starts else {}
        self._journal.start(flatten(config), {**provenance(), **resumed, **(tags or {})})
        self._status = "FINISHED"
        self._ending = threading.Event()
        self._warned = False
        # With the task's context, so that a warning reaches the log of its run.
        body, context = self._deliver_until_end, contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(body,), daemon=True, name="fewcast-tracking")
        with suppress(OSError):  # a full disk; the run's checkpoints will say so
            packages = folder / "environment.txt"
            packages.write_text(environment())
            self.artifact(packages)

    def __enter__(self) -> "TrackedRun":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        if self._status != "RUNNING":
            self._journal.append("end", status=self._status)
        self._ending.set()
        self._thread.join(self._patience)
        if self._thread.is_alive() or not is_delivered(self._journal.folder):
            _LOGGER.warning(
                "MLflow has not all of %s; it is kept in %s and delivered when the run goes on",
                self._name,
                self._journal.folder,
            )
        self._journal.close()

    def goes_on(self) -> None:
        """Leave the run RUNNING at the end: another segment follows."""
        self._status = "RUNNING"

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._journal.metrics(values, step)

    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Every step with its metrics so far, those of earlier processes too."""
        return self._journal.history()

    def figure(self, name: str, figure: Figure, step: int) -> None:
        path = self._image_path(name, step)
        figure.savefig(path, dpi=110, bbox_inches="tight")
        self._journal.once("image", path=str(path), key=name, step=step)

    def image(self, name: str, picture: Image.Image, step: int) -> None:
        """Keep a picture of a step, which MLflow shows beside those of the other steps of its name."""
        path = self._image_path(name, step)
        picture.save(path)
        self._journal.once("image", path=str(path), key=name, step=step)

    def _image_path(self, name: str, step: int) -> Path:
        path = (self._journal.folder / "images" / f"{name}-{step:07d}.png").resolve()
        path.parent.mkdir(exist_ok=True)
        return path

    def table(self, path: Path, name: str) -> None:
        """Show a Parquet file as a table of the run; `name` ends in .json, which is what the page can show."""
        self._journal.once("table", path=str(path.resolve()), name=name)

    def artifact(self, path: Path, under: str = "", *, digest: str = "") -> None:
        """Keep a file or a folder with the run, once; or once for each `digest`, where its content may change."""
        self._journal.artifact(path, under, digest)

    def tag(self, tags: Mapping[str, str]) -> None:
        self._journal.append("tags", tags=dict(tags))

    def dataset(self, name: str, digest: str, source: str, profile: str) -> None:
        """Say which data the run saw."""
        self._journal.once("dataset", name=name, digest=digest, source=source, profile=profile)

    def model(self, folder: Path, tags: Mapping[str, str]) -> None:
        """Register a saved model under the experiment's name, the newest candidate unless the run is inside another."""
        self._journal.once("model", path=str(folder.resolve()), tags=dict(tags))

    def _deliver_until_end(self) -> None:
        machine, read = Machine(), time.monotonic()
        wait = self._every
        while True:
            ending = self._ending.wait(wait)
            if time.monotonic() - read >= _MACHINE_SECONDS:
                read = time.monotonic()
                self._journal.sample(machine.read())
            try:
                # Here and not above: mlflow takes seconds to import, and they are the thread's.
                importlib.import_module("tasks.tracking.delivery").deliver(
                    self._journal, self._tracking, self._name, self._parent
                )
                wait = self._every
            except Exception as error:  # whatever it is, it must not touch the training
                wait = min(2 * wait, 120.0)
                if not self._warned:
                    self._warned = True
                    _LOGGER.warning(
                        "MLflow does not answer (%s): metrics wait in %s", _line(error), self._journal.folder
                    )
            if ending:
                return


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
