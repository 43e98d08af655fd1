"""`python -m flows.server` is `prefect server start`, whose forms refuse a bad value in our words.

And which does not take for dead the runs that it could not hear while it was away.

Prefect holds the values of a run against the JSON schema of its flow. That knows bounds, but not how two values must
agree, and says no more than `101 is greater than the maximum of 100`. Prefect has no opening for another check, so ours
is put before its own where a run is started; the page shows the refusal beside its button. The form's own check, before
that, would mark a field somewhere in a long form and say nothing where one looks: it leaves our flows to the start.
"""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from docket import Docket
from jsonschema.exceptions import ValidationError as SchemaError
from prefect.cli import app
from prefect.server.api import deployments, server
from prefect.server.api.ui import schemas
from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage
from prefect.server.database import provide_database_interface
from prefect.server.events.schemas.automations import EventTrigger, Posture
from prefect.utilities.schema_tools import validation
from pydantic import ValidationError

from core import config
from core.config.places import misplaced
from core.config.problems import problems
from core.errors import FewcastError

STAGES = {
    name: item for name, item in vars(config).items() if isinstance(item, type) and issubclass(item, config.Stage)
}
HEARTBEAT = "prefect.flow-run.heartbeat"
LEASE = timedelta(minutes=5)  # for how long a run renews its place under a limit, each time
MANY = 10_000
theirs = validation.validate
their_worker = server.background_worker


def main() -> None:
    """Start the server with the options of `prefect server start`."""
    deployments.validate, schemas.validate = validate, validate_form
    server.background_worker = begin_work
    sys.argv[1:1] = ["server", "start"]
    app()


@asynccontextmanager
async def begin_work(docket: Docket, ephemeral: bool = False, webserver_only: bool = False) -> AsyncIterator[None]:
    """Prefect's services, and first a word for the runs that live: nothing is judged or heard before."""
    if not webserver_only:
        await hear_again()
        await renew_leases()
    async with their_worker(docket, ephemeral=ephemeral, webserver_only=webserver_only):
        yield


async def hear_again() -> None:
    """Give every run that a rule awaits a heartbeat of one whole period more, from now.

    What was sent while the server was away is lost, and the rule goes by the clock: it would call crashed whatever
    lived through a longer outage, and a crashed run loses its place under its limit and ends itself.
    """
    db = provide_database_interface()
    async with db.session_context(begin_transaction=True) as session:
        for automation in await session.scalars(sa.select(db.Automation)):
            rule = automation.trigger
            if isinstance(rule, EventTrigger) and rule.posture is Posture.Proactive and HEARTBEAT in rule.expect:
                bucket, end = db.AutomationBucket, datetime.now(UTC) + rule.within
                late = (bucket.automation_id == automation.id, bucket.end < end)
                await session.execute(sa.update(bucket).where(*late).values(end=end))


async def renew_leases() -> None:
    """Let every run keep its place under a limit for one lease more: one whose lease is taken from it ends itself."""
    leases = get_concurrency_lease_storage()
    for id in (*await leases.read_active_lease_ids(MANY), *await leases.read_expired_lease_ids(MANY)):
        lease = await leases.read_lease(id)
        if lease and lease.expiration < datetime.now(UTC) + LEASE:
            await leases.renew_lease(id, LEASE)


def validate(
    obj: dict[str, Any],
    schema: Mapping[str, Any],
    raise_on_error: bool = False,
    preprocess: bool = True,
    ignore_required: bool = False,
    allow_none_with_default: bool = False,
) -> list[SchemaError]:
    """Prefect's check of the values of a run, after that of our models where the schema is of them.

    What a deployment presets (`ignore_required`) may be a part of what a run needs, and is left to Prefect.
    """
    found = [] if ignore_required else list(refusals(obj, schema, allow_none_with_default))
    if found:
        raise validation.ValidationError(found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))
    return theirs(obj, schema, raise_on_error, preprocess, ignore_required, allow_none_with_default)


def validate_form(
    obj: dict[str, Any],
    schema: Mapping[str, Any],
    raise_on_error: bool = False,
    preprocess: bool = True,
    ignore_required: bool = False,
    allow_none_with_default: bool = False,
) -> list[SchemaError]:
    """Prefect's check of a form, and none where a parameter is a stage of ours."""
    if any(_stage(part, schema) for part in schema.get("properties", {}).values()):
        return []
    return theirs(obj, schema, raise_on_error, preprocess, ignore_required, allow_none_with_default)


def refusals(
    values: Mapping[str, Any], schema: Mapping[str, Any], allow_none_with_default: bool = False
) -> Iterator[str]:
    """What our models, and the schema of what stands beside them, refuse in the values of a run, one line each."""
    properties = schema.get("properties", {})
    stages = {name: stage for name, part in properties.items() if (stage := _stage(part, schema))}
    for name, stage in stages.items():
        if name in values:
            yield from _refused(name, values[name], stage)
    plain = {name: part for name, part in properties.items() if name in values and name not in stages}
    if stages and plain:
        given, beside = {name: values[name] for name in plain}, {**schema, "properties": plain, "required": []}
        for error in theirs(given, beside, allow_none_with_default=allow_none_with_default):
            key, meaning = ".".join(map(str, error.path)), " ".join(plain[error.path[0]].get("description", "").split())
            yield str(FewcastError(f"{key} is refused", found=error.message, mend=f"give it as described: {meaning}"))


def _refused(name: str, values: Any, stage: type[config.Stage]) -> Iterator[str]:
    try:
        made = stage.model_validate(values)
    except ValidationError as error:
        for problem in problems(error, stage):
            key = ".".join(map(str, (name, *problem.place)))
            mend = f"give it as described: {problem.meaning}"
            yield str(FewcastError(f"{key} is refused", found=problem.found, mend=mend))
    else:
        for place in misplaced(made):
            yield str(FewcastError(f"{name}.{place.key} is refused", found=place.found, mend=place.mend))


def _stage(part: Mapping[str, Any], schema: Mapping[str, Any]) -> type[config.Stage] | None:
    """The model of ours that a parameter is of, by its name and its keys: another's may bear the same name."""
    for reference in (part, *part.get("allOf", ())):
        name = reference.get("$ref", "").rpartition("/")[2]
        keys = schema.get("definitions", {}).get(name, {}).get("properties", {}).keys()
        if (stage := STAGES.get(name)) and stage.model_fields.keys() == keys:
            return stage
    return None


if __name__ == "__main__":
    main()
