"""Which code, which environment and which flow run a run comes from, and what it uses of the machine."""

import getpass
import hashlib
import subprocess
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

import psutil
from prefect.runtime import flow_run
from pydantic import BaseModel

import core


def provenance() -> dict[str, str]:
    """Tags: git revision, digests of the lock file and of all installed packages with versions, flow run, and user.

    The lock says what should be installed and the environment what is; a package without its checkout has no lock.
    """
    where = Path(core.__file__).parent
    lock = where.parent / "requirements.lock"
    tags = {
        "prefect.flow_run_id": str(flow_run.get_id() or ""),
        "prefect.flow_run_name": str(flow_run.get_name() or ""),
        "fewcast.environment_digest": _digest(environment()),
        "fewcast.lock_digest": _digest(lock.read_text()) if lock.is_file() else "",
        "mlflow.source.name": f"fewcast {flow_run.get_flow_name() or ''}".strip(),
        "mlflow.source.type": "LOCAL",
    }
    with suppress(OSError, KeyError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    git = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.TimeoutExpired):  # an installed package may have no git
        answer = subprocess.run(git, capture_output=True, text=True, timeout=20)
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {key: value for key, value in tags.items() if value}


def environment() -> str:
    """What is installed, as a requirements file."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in distributions()})) + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(config: BaseModel, prefix: str = "") -> dict[str, str]:
    """A config as MLflow parameters: `inner.steps` -> "3"."""
    values: dict[str, str] = {}
    for key, value in config:
        values |= flatten(value, f"{prefix}{key}.") if isinstance(value, BaseModel) else {f"{prefix}{key}": str(value)}
    return values


class Machine:
    """What this process and its machine use, in the names that MLflow shows as system metrics."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        psutil.cpu_percent()  # percentages are since the last call

    def read(self) -> dict[str, float]:
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
            "system/process_memory_megabytes": self._process.memory_info().rss / 1e6,
            **_gpu(),
        }


def _gpu() -> dict[str, float]:
    import torch

    if not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "system/gpu_0_memory_usage_percentage": 100 * (1 - free / total),
        "system/gpu_0_memory_peak_megabytes": torch.cuda.max_memory_allocated() / 1e6,
    }
