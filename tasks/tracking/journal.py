"""The record of a run on local disk, from which a tracking server is fed whenever it can be reached.

Appended to and never rewritten, one JSON object a line. `delivered.json` beside it says how far a server has it. So
training never waits for a server, nothing is lost when one goes away, and a killed run tells the rest later.
"""

import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from core.errors import FewcastError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivered:
    """How far, in bytes, which run on which server has the journal."""

    run_id: str = ""
    uri: str = ""
    offset: int = 0


class Journal:
    """One run's journal in `folder`, which this process holds alone until `close`. Safe to call from any thread.

    Raises `FewcastError` where another process holds it, or where it cannot be written.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._path = folder / "journal.jsonl"
        self._last_steps: dict[str, int] = {}
        self._repeated: dict[str, int] = {}  # the same, of what a run with these settings would tell again
        self._params: dict[str, str] = {}
        self._once: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._unwritten, self._warned = b"", False
        self._damaged: set[int] = set()  # offsets behind lines that were warned of
        self._file = self._open()
        end = self._read_back()
        self._delivered = read_delivered(folder)
        self._file.truncate(end)

    def _open(self) -> FileIO:
        """The journal for this process alone: the lock is the operating system's, and goes with its holder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise FewcastError(
                f"cannot keep a record of the run in {self.folder}",
                found=error.strerror or str(error),
                mend="give the run a folder that can be written",
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise FewcastError(
                f"the run {self.folder.parent} is at work",
                found="another process that holds it",
                mend="wait for it, or choose another folder",
            ) from error
        return file

    def _read_back(self) -> int:
        """Learn the last step of every metric; the end of the last whole line, since a kill may tear one."""
        end = 0
        for record, behind in self.since(0):
            end = behind
            if record["kind"] == "metrics":
                self._note(record["values"], record["step"])
            elif record["kind"] == "start":
                self._begin(record["params"])
            self._counts[record["kind"]] += 1
            self._once.add(_identity(record))
        return end

    def start(self, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Append that a process begins, or goes on, with these settings."""
        self._begin(params)
        self.append("start", params=dict(params), tags=dict(tags))

    def _begin(self, params: Mapping[str, str]) -> None:
        """Other settings give other values from the checkpoint on: none of them is a repetition."""
        if params != self._params:
            self._repeated.clear()
        self._params = dict(params)

    def _note(self, keys: Iterable[str], step: int) -> None:
        for steps in (self._last_steps, self._repeated):
            steps.update(dict.fromkeys(keys, step))

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record; where the disk is full it waits in memory, and is written with those that follow."""
        line = json.dumps({"kind": kind, "time": int(self._clock() * 1000), **fields}) + "\n"
        with self._lock:
            self._unwritten += line.encode()
            self._write()

    def _write(self) -> None:
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]
        except OSError as error:
            if not self._warned:
                self._warned = True
                _LOGGER.warning("cannot write %s (%s): its records wait in memory", self._path, error.strerror)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Append what is new: a resumed run repeats the steps since its checkpoint, with the same values.

        Where its settings have changed the values are others, and are told beside those of before.
        """
        new = {key: float(value) for key, value in values.items() if step > self._repeated.get(key, -1)}
        self._note(new, step)
        if new:
            self.append("metrics", step=step, values=new)

    def history(self) -> list[tuple[int, dict[str, float]]]:
        """Every step with its metrics, those of earlier processes too, as they were told."""
        return [(record["step"], record["values"]) for record, _ in self.since(0) if record["kind"] == "metrics"]

    def sample(self, values: Mapping[str, float]) -> None:
        """Append metrics that go by the time and not by the step of training."""
        self.metrics(values, max((self._last_steps.get(key, -1) for key in values), default=-1) + 1)

    def artifact(self, path: Path, under: str, digest: str) -> None:
        """Append a file or a folder, once; one whose content may change under its name says its digest."""
        self.once("artifact", path=str(path.resolve()), under=under, **({"digest": digest} if digest else {}))

    def once(self, kind: str, **fields: Any) -> None:
        """Append, unless the same has been appended."""
        identity = _identity({"kind": kind, **fields})
        if identity not in self._once:
            self._once.add(identity)
            self.append(kind, **fields)

    def count(self, kind: str) -> int:
        """How many records of a kind earlier processes left."""
        return self._counts[kind]

    def since(self, offset: int) -> list[tuple[dict[str, Any], int]]:
        """The records from byte `offset` on, each with the offset behind it; damaged lines are left out."""
        records = []
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                if record := _parsed(line):
                    records.append((record, offset))
                elif offset not in self._damaged:
                    self._damaged.add(offset)
                    _LOGGER.warning("%s has a damaged line before byte %d: it is left out", self._path, offset)
        return records

    @property
    def delivered(self) -> Delivered:
        return self._delivered

    @delivered.setter
    def delivered(self, value: Delivered) -> None:
        self._delivered = value
        beside = self.folder / "delivered.json.new"
        with suppress(OSError):  # a full disk: what is told twice is the same to MLflow
            beside.write_text(json.dumps(value.__dict__))
            os.replace(beside, self.folder / "delivered.json")

    def close(self) -> None:
        with self._lock:
            self._write()
            self._file.close()


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's record; nothing where the line is damaged."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) and "kind" in record else {}


def _identity(record: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in record.items() if key != "time"}, sort_keys=True)


def read_delivered(folder: Path) -> Delivered:
    """What a server has of the journal in `folder`; nothing, where there is none."""
    try:
        return Delivered(**json.loads((folder / "delivered.json").read_text()))
    except (OSError, ValueError, TypeError):
        return Delivered()


def is_delivered(folder: Path) -> bool:
    """Whether a server has all of the run that `folder` keeps."""
    journal = folder / "journal.jsonl"
    return journal.exists() and read_delivered(folder).offset == journal.stat().st_size


def is_finished(folder: Path, uri: str) -> bool:
    """Whether the run that `folder` keeps has ended FINISHED, and the server at `uri` has all of it."""
    if not is_delivered(folder) or read_delivered(folder).uri != uri:
        return False
    with (folder / "journal.jsonl").open("rb") as file:
        statuses = [record.get("status") for line in file if (record := _parsed(line)).get("kind") in ("start", "end")]
    return statuses[-1:] == ["FINISHED"]


def start_afresh(folder: Path) -> None:
    """Forget the run that `folder` keeps, so that the next one is another run."""
    shutil.rmtree(folder, ignore_errors=True)
