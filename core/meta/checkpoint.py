"""Training state on disk: atomic to write, verified on load, and nothing pickled.

A run's directory holds one directory a checkpoint, `step_00001200/`, with `tensors.safetensors` and
`checkpoint.json`: the metadata and the digests of both. It is written beside under a hidden name, fsynced and
renamed, so that under its own name it is whole or absent, whenever the machine stops.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from core.durable import to_disk, tree_to_disk
from core.errors import FewcastError
from core.report import Report, Silent

_TENSORS, META = "tensors.safetensors", "checkpoint.json"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """One verified checkpoint in memory; `meta` is plain JSON data."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    digest: str  # of all of it


def save(
    run: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    *,
    keep_last: int = 2,
    keep: Collection[int] = (),
) -> Path:
    """Write the checkpoint of `step`, then delete all but the `keep_last` newest and the steps in `keep`.

    A checkpoint of the same step is replaced; one of a later step, which the run could not go on from, is deleted too.
    Raises `FewcastError` when the disk is full or refuses; whatever was there before is then still there.
    """
    target, beside = run / _name(step), run / f".writing-{_name(step)}-{os.getpid()}"
    # Copies: a first state's moments are the same zeros, and safetensors refuses tensors that share memory.
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
    try:
        run.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        (beside / _TENSORS).write_bytes(data)
        body = {
            "format": _FORMAT,
            "step": step,
            "tensors": list(tensors),  # their order, since noise is drawn in it and safetensors keeps another
            "tensors_sha256": _sha256(data),
            "meta": dict(meta),
        }
        (beside / META).write_bytes(json.dumps(body | {"sha256": _digest(body)}, indent=1).encode())
        tree_to_disk(beside)
        if target.exists():
            _discard(target)
        beside.rename(target)
        to_disk(run)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise FewcastError(
            f"cannot write the checkpoint of step {step} in {run}",
            found=error.strerror or str(error),
            mend=("free some space" if full else "give a folder that can be written")
            + " and run the same command again: it goes on from the checkpoint before",
        ) from error
    kept = {*[known for known in steps(run) if known <= step][-keep_last:], *keep}
    for old in steps(run):
        if old not in kept:
            _discard(run / _name(old))
    return target


def steps(run: Path) -> list[int]:
    """Steps that have a checkpoint in the run's directory, good or not, in ascending order."""
    names = [entry.name for entry in run.glob("step_*")] if run.is_dir() else []
    return sorted(int(name[5:]) for name in names if name[5:].isdigit())


def load(run: Path, step: int) -> Checkpoint:
    """Read and verify one checkpoint; raises `FewcastError` when it is absent, truncated or altered."""
    found = read(run / _name(step))
    if found.step != step:
        raise _unusable(found.path, f"it says that it is of step {found.step}")
    return found


def read(path: Path) -> Checkpoint:
    """Read and verify the checkpoint in a folder of any name."""
    try:
        body = json.loads((path / META).read_bytes())
        data = (path / _TENSORS).read_bytes()
        if not isinstance(body, dict) or (digest := body.pop("sha256", None)) != _digest(body):
            raise ValueError(f"{META} does not match its own digest")
        if body["format"] != _FORMAT:
            raise ValueError(f"format {body['format']}, where this version reads {_FORMAT}")
        if _sha256(data) != body["tensors_sha256"]:
            raise ValueError(f"{_TENSORS} is truncated or altered: {len(data)} bytes of another digest")
        # Copies: views into the file's bytes are not aligned as fresh tensors are, and kernels may then sum otherwise.
        unordered = safetensors.torch.load(data)
        tensors = {name: unordered[name].clone() for name in body["tensors"]}
        return Checkpoint(path, int(body["step"]), tensors, body["meta"], digest)
    except OSError as error:
        raise _unusable(path, f"{Path(error.filename or path).name}: {error.strerror}") from error
    except (ValueError, KeyError, SafetensorError) as error:
        raise _unusable(path, str(error)) from error


def load_latest(run: Path, *, report: Report | None = None) -> Checkpoint | None:
    """The newest checkpoint that verifies; None where there is none at all.

    Each bad one passed over is reported. Raises `FewcastError` when there are checkpoints and none is good, since
    starting afresh over them is for the user to decide.
    """
    report = report or Silent()
    problem: FewcastError | None = None
    for step in reversed(steps(run)):
        try:
            return load(run, step)
        except FewcastError as error:
            problem = error
            report.message(f"passed over: {error}")
    if problem is not None:
        raise problem
    return None


@contextmanager
def owned(run: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the run for this process alone, and clear what an interrupted write or deletion left in it.

    The lock is the operating system's: it is free again as soon as its holder is gone, however it went. Raises
    `FewcastError` where another process holds it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".lock").open("ab")
    except OSError as error:
        raise FewcastError(f"cannot write in the run's directory {run}", found=error.strerror or str(error),
                           mend="set train.run to a folder that can be written") from error  # fmt: skip
    with lock:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise FewcastError(f"the run {run} is being trained", found="another process that holds it",
                                       mend="wait for it, or choose another train.run") from error  # fmt: skip
                time.sleep(0.1)
        _clean(run)
        yield


def _clean(run: Path) -> None:
    for pattern in (".writing-*", ".deleting-*"):
        for leftover in run.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def require_same_shapes(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Raise `FewcastError` unless the checkpoint holds just the expected names, shapes and dtypes."""
    for name in sorted({*checkpoint.tensors, *expected}):
        here, there = (_describe(tensors.get(name)) for tensors in (expected, checkpoint.tensors))
        if here != there:
            raise FewcastError(
                f"the checkpoint {checkpoint.path} is of another architecture",
                found=f"{name} {there} in it and {here} in this configuration",
                mend="train with the network, learner and inner loop of that run, or choose another `train.run`",
            )


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _describe(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _unusable(path: Path, found: str) -> FewcastError:
    return FewcastError(
        f"the checkpoint {path} cannot be used", found=found, mend="delete that folder and run the same command again"
    )


def _discard(path: Path) -> None:
    """Delete by renaming first, so that a half-deleted directory never bears a checkpoint's name."""
    doomed = path.with_name(f".deleting-{path.name}-{os.getpid()}")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(body, sort_keys=True).encode())
