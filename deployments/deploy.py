"""`python -m deployments.deploy` serves every deployment by itself; with `--apply` it leaves them to workers."""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from core.config import load
from core.errors import FewcastError
from deployments.automations import apply_automations, automations, find_alerts
from deployments.catalogue import Entry, catalogue
from deployments.pools import CPU_POOL, GPU_POOL
from flows.cli import PRESETS
from flows.embedded import HEARTBEAT_SECONDS
from tasks.policies import GPU


def main() -> int:
    """Serve the deployments of all presets, or of the configs given, until Ctrl-C; or apply them, and end."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=__doc__)
    parser.add_argument("--config", type=Path, action="append", help="these TOML files instead of the presets")
    parser.add_argument("--apply", action="store_true", help="register for the workers of the pools, and end")
    parser.add_argument("--working-dir", default=os.getcwd(), help="the folder that workers run in (it holds data/)")
    options = parser.parse_args()
    try:
        if not PREFECT_API_URL.value():
            raise FewcastError(
                "deployments need a Prefect server",
                found="no PREFECT_API_URL",
                mend="run `fewcast ui` beside this and set PREFECT_API_URL to its address with /api behind it",
            )
        chosen = catalogue(load(path) for path in options.config or sorted(PRESETS.glob("*.toml")))
        apply(chosen, options.working_dir if options.apply else "")
        if not options.apply:
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}):
                serve(*(entry.deployment() for entry in chosen))
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


def apply(chosen: list[Entry], working_dir: str = "") -> None:
    """Pools, the limit of one run a GPU, deployments and automations; applied twice it changes nothing.

    With a folder to run in the deployments are for the workers of the pools; without, for this process to serve.
    """
    with get_client(sync_client=True) as client:
        for pool in (CPU_POOL, GPU_POOL) if working_dir else ():
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        client.create_concurrency_limit(GPU, 1)
    ids: dict[str, UUID] = {}
    for entry in chosen:
        ids[entry.path] = cast(UUID, entry.deployment(working_dir).apply())
        print(f"{entry.path}, {entry.starts}")
    for name in apply_automations(automations(chosen, ids, find_alerts())):
        print(f"automation {name}")


if __name__ == "__main__":
    sys.exit(main())
