"""Which code, which environment and which flow run a run comes from, and what it uses of the machine."""

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
    """Tags: the git revision, a digest of all installed packages with their versions, and the flow run."""
    tags = {
        "prefect.flow_run_id": str(flow_run.get_id() or ""),
        "prefect.flow_run_name": str(flow_run.get_name() or ""),
        "fewcast.environment_digest": environment_digest(),
    }
    where = Path(core.__file__).parent
    git = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.TimeoutExpired):  # an installed package may have no git
        answer = subprocess.run(git, capture_output=True, text=True, timeout=20)
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {key: value for key, value in tags.items() if value}


def environment() -> str:
    """What is installed, as a requirements file."""
    return "\n".join(sorted({f"{d.metadata['Name']}=={d.version}".lower() for d in distributions()})) + "\n"


def environment_digest() -> str:
    return hashlib.sha256(environment().encode()).hexdigest()[:16]


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
