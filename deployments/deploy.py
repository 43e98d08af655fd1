"""`python -m deployments.deploy` serves every deployment by itself; with `--apply` it leaves them to workers."""

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast
from uuid import UUID

from prefect import serve
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from core.config import load
from core.errors import FewcastError
from deployments.automations import OURS, apply_automations, automations, find_alerts
from deployments.catalogue import SLUG, Entry, catalogue
from deployments.pools import CPU_POOL, GPU_POOL
from flows.access import open_doors
from flows.cli import PRESETS
from flows.embedded import HEARTBEAT_SECONDS
from flows.worker import ask_on
from tasks.listing import everything
from tasks.policies import GPU


def main() -> int:
    """Serve the deployments of all presets, or of the configs given, until Ctrl-C; or apply them, and end."""
    parser = argparse.ArgumentParser(prog="python -m deployments.deploy", description=__doc__)
    parser.add_argument("--config", type=Path, action="append", help="these TOML files instead of the presets")
    parser.add_argument("--apply", action="store_true", help="register for the workers of the pools, and end")
    parser.add_argument("--prune", action="store_true", help="delete what earlier calls left that is in no config now")
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
        with let_in():
            made = apply(chosen, options.working_dir if options.apply else "", prune=options.prune)
            if not options.apply:
                ask_on()
                with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT_SECONDS}):
                    serve(*made)
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def let_in() -> Iterator[None]:
    """FEWCAST_AUTH for Prefect's client, which has read its settings by now, and for the runs that are started here."""
    open_doors()
    key = os.environ.get(PREFECT_API_AUTH_STRING.name)
    with temporary_settings({PREFECT_API_AUTH_STRING: key} if key else {}):
        try:
            yield
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 401:
                raise
            raise FewcastError(
                "the Prefect server does not let us in",
                found=f"status 401 from {PREFECT_API_URL.value()}",
                mend="set FEWCAST_AUTH=user:password, or FEWCAST_AUTH_FILE, as the server has it",
            ) from error


def apply(chosen: list[Entry], working_dir: str = "", *, prune: bool = False) -> list[RunnerDeployment]:
    """Pools, the limit of one run a GPU, deployments and automations; applied twice it changes nothing.

    What the operator switched off on the server stays off, and the limit as it was set. What earlier calls made and
    these entries do not ask for is named, since it may be another's; to `prune` deletes it.
    With a folder to run in the deployments are for the workers of the pools; without, for this process to serve.
    """
    with get_client(sync_client=True) as client:
        for pool in (CPU_POOL, GPU_POOL) if working_dir else ():
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        try:
            client.read_concurrency_limit_by_tag(GPU)
        except ObjectNotFound:
            client.create_concurrency_limit(GPU, 1)
        made = [entry.deployment(working_dir) for entry in chosen]
        for deployment in made:
            reconcile(deployment, client)
    ids: dict[str, UUID] = {}
    for entry, deployment in zip(chosen, made, strict=True):
        ids[entry.path] = cast(UUID, deployment.apply())
        off = deployment.paused or not all(schedule.active for schedule in deployment.schedules or ())
        print(f"{entry.path}, {entry.starts}{' (switched off)' * off}")
    rules = apply_automations(automations(chosen, ids, find_alerts()))
    print(*(f"automation {rule.name}{' (switched off)' * (not rule.enabled)}" for rule in rules), sep="\n")
    clear_left_over(ids, [rule.name for rule in rules], delete=prune)
    return made


def reconcile(made: RunnerDeployment, client: SyncPrefectClient) -> None:
    """Leave off what is off on the server (a paused deployment, a schedule), and the schedules that were added there.

    One that a process serves is paused by the end of that process: that is not the operator's word, and is not kept.
    A schedule of ours that is no longer asked for is deleted: given none in its place, the server would go on with it.
    """
    try:
        there = client.read_deployment_by_name(f"{made.flow_name}/{made.name}")
    except ObjectNotFound:
        return
    made.paused = bool(there.paused and there.work_pool_name and made.work_pool_name)
    ours = {schedule.slug: schedule for schedule in made.schedules or ()}
    added = [schedule for schedule in there.schedules if schedule.slug != SLUG]
    for schedule in there.schedules:
        if schedule.slug in ours and not schedule.active:
            ours[schedule.slug].active = False
        if schedule.slug == SLUG and not ours:
            client.delete_deployment_schedule(there.id, schedule.id)
    kept = {"schedule", "active", "max_scheduled_runs", "parameters", "slug"}
    made.schedules = [*ours.values(), *(DeploymentScheduleCreate(**one.model_dump(include=kept)) for one in added)]


def clear_left_over(ids: Mapping[str, UUID], names: Collection[str], *, delete: bool) -> None:
    """Name, or delete, deployments and automations of ours beyond those of the given ids and names."""
    with get_client(sync_client=True) as client:
        made, ruled = everything(client.read_deployments), everything(client.read_automations)
        old = [item for item in made if _is_ours(item) and item.id not in ids.values()]
        rules = [rule for rule in ruled if rule.name.startswith(OURS) and rule.name not in names]
        for item in old:
            print(f"{'deleted' if delete else 'left over'}: deployment {item.entrypoint}/{item.name}")
            if delete:
                client.delete_deployment(item.id)
        for rule in rules:
            print(f"{'deleted' if delete else 'left over'}: automation {rule.name}")
            if delete:
                client.delete_automation(rule.id)
    if (old or rules) and not delete:
        print("what is left over still runs; --prune deletes it")


def _is_ours(deployment: DeploymentResponse) -> bool:
    """By what `Entry.deployment` gives it: a module of ours, and the tag of a time limit."""
    entrypoint = deployment.entrypoint or ""
    ours = entrypoint.startswith("flows.") and ":" not in entrypoint  # a file `flows.py` may be anyone's
    return ours and any(tag.startswith("limit-") for tag in deployment.tags)


if __name__ == "__main__":
    sys.exit(main())
