"""The check of a run's values in Prefect's server: what it refuses, in which words. test_deploy sees it at work.

And what it does before it judges who lives; test_outage sees that at work.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from prefect.server.concurrency.lease_storage import get_concurrency_lease_storage
from prefect.server.database import provide_database_interface
from prefect.server.events.schemas.automations import EventTrigger
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_HOME,
    PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE,
    temporary_settings,
)
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError

from core.config import load
from deployments.automations import overdue, zombies
from flows import server
from flows.archive import check_archive, check_fresh
from flows.episodes import episodes
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.monitor import monitor
from flows.nowcast import nowcast
from flows.pipeline import pipeline
from flows.server import validate, validate_form
from flows.sweep import sweep
from flows.train import train

PRESET = load(Path(__file__).with_name("tiny.toml"))
SCHEMA = parameter_schema(ingest.fn).model_dump_for_openapi()
RETRIES = (
    "config.retries is refused: found 99 (Input should be less than or equal to 20); "
    "give it as described: Further tries of a download that failed. From 0 to 20."
)


def values(**changes: Any) -> dict[str, Any]:
    config = PRESET.ingest.model_dump(mode="json")
    return {"config": config | changes}


def test_good_values_pass() -> None:
    assert validate(values(), SCHEMA, raise_on_error=True) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"retries": 99}, RETRIES),
        ({"times": {"start": "2024-05-02T00:00Z", "end": "2024-05-01T00:00Z"}},
         "config.times is refused: found end 2024-05-01 00:00 must come after start 2024-05-02 00:00; "
         "give it as described: Which slots to ingest."),
        ({"retrys": 4}, "config.retrys is refused: found no such key (is it retries?); "
         "give it as described: Granules to archive."),
        ({"area": "nowhere"}, "config.area is refused: found 'nowhere', which is neither one of korea, "),
        ({"area": "122,44,133,31"}, "nor bounds with south before north; give it as described: Named area (korea, "),
        ({"pattern": "%Q.nc"},
         "config.pattern is refused: found '%Q.nc', which does not tell the time (unknown code %Q) "
         "by %Y %m %d %H %M %S %j; give it as described: Key pattern for `cf`: "),
        ({"source": ""}, "config.source is refused: found '' (String should have at least 1 character); "
         "give it as described: URL of the granules' root"),
        ({"channels": []}, "config.channels is refused: found List should have at least 1 item after validation, "
         "not 0; give it as described: Channels to keep, by the system's own names."),
    ],
)  # fmt: skip
def test_a_run_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate(values(**changes), SCHEMA, raise_on_error=True)
    assert line in str(caught.value)


def refused(flow: Any, parameters: dict[str, Any]) -> str:
    """The line in which values of a flow's run are refused; empty where they pass."""
    try:
        assert validate(parameters, parameter_schema(flow.fn).model_dump_for_openapi(), raise_on_error=True) == []
    except ValidationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"init_time": "yesterday"}, "found 'yesterday', which is no ISO time such as 2024-06-01T03:00Z; "),
        ({"region": "the moon"}, "found 'the moon', which is neither one of korea, "),
        ({"output": "s3://bucket/forecasts"}, "found 's3://bucket/forecasts'; give a folder of this machine"),
        ({"output": " "}, "found nothing; give it: only a pipeline has a root to fill it from"),
        ({"init_time": "2024-06-01T03:00Z", "region": "Southeast Asia"}, ""),
    ],
)
def test_a_nowcast_is_refused_what_would_fail_it(changes: dict[str, Any], line: str) -> None:
    config = PRESET.forecast.model_dump(mode="json") | changes
    said = refused(nowcast, {"config": config, "tracking": {}})
    assert said.startswith(f"config.{next(iter(changes))} is refused: {line}" if line else "")
    assert bool(said) == bool(line)


def test_an_empty_place_is_for_a_pipeline_to_fill_and_a_stage_by_itself_must_have_it() -> None:
    """Empty, it would be the working directory."""
    flows = {
        "ingest": ingest, "episodes": episodes, "train": train, "evaluate": evaluate, "forecast": nowcast,
        "monitor": monitor,
    }  # fmt: skip
    whole = PRESET.model_dump(mode="json")
    assert whole.keys() - flows.keys() == {"name", "root", "tracking"}
    for stage, flow in flows.items():
        beside = {"tracking": whole["tracking"]} if stage in ("train", "evaluate", "forecast") else {}
        assert refused(flow, {"config": whole[stage], **beside}) == ""
        described = type(getattr(PRESET, stage)).model_fields.items()
        filled = [key for key, field in described if "empty: under the pipeline's root" in str(field.description)]
        assert filled
        for key in (*filled, *(["name", "folder"] if stage == "monitor" else [])):
            line = refused(flow, {"config": whole[stage] | {key: ""}, **beside})
            assert line.startswith(f"config.{key} is refused: found "), (stage, key)
            empty = whole | {stage: whole[stage] | {key: ""}}
            assert bool(refused(pipeline, {"config": empty})) == (key == "folder"), "no root holds the metrics"


def test_what_stands_beside_a_stage_is_refused_in_our_words_too() -> None:
    whole, tracking = PRESET.model_dump(mode="json"), {"tracking": PRESET.tracking.model_dump(mode="json")}
    assert refused(train, {"config": whole["train"], **tracking, "segment_steps": -1}) == (
        "segment_steps is refused: found -1 is less than the minimum of 0; give it as described: Steps of one task; "
        "each starts from the last good checkpoint and is retried by itself. 0: all in one. From 0 to 1000000."
    )
    assert refused(check_fresh, {"config": whole["ingest"], "limit_minutes": 0}).startswith("limit_minutes is refused:")
    assert refused(sweep, {"config": whole, "grid": ["train.inner.steps=1,3", "rubbish"]}).startswith(
        "grid.1 is refused: found 'rubbish' does not match "
    )
    assert refused(sweep, {"config": whole, "grid": ["train.inner.steps=1,3", 'train.learn_rates="no"']}) == ""
    assert "'' should be non-empty" in refused(check_archive, {"url": ""})


def test_of_several_the_first_is_told_and_how_many_there_are() -> None:
    with pytest.raises(ValidationError, match=r"^config\.connections is refused: found 0 .* \(and 1 more\)$"):
        validate(values(retries=99, connections=0), SCHEMA, raise_on_error=True)


def test_the_form_itself_leaves_our_flows_to_the_start_of_the_run() -> None:
    assert validate_form(values(retries=99), SCHEMA) == []


def test_another_flows_parameters_are_prefects_to_judge() -> None:
    """One whose model bears the name of ours."""
    model = {"type": "object", "properties": {"retries": {"type": "integer", "maximum": 5}}}
    schema = {"properties": {"config": {"$ref": "#/definitions/IngestConfig"}}, "definitions": {"IngestConfig": model}}
    for check in (validate, validate_form):
        [error] = check({"config": {"retries": 9}}, schema)
        assert error.message == "9 is greater than the maximum of 5"


def test_a_deployment_may_preset_a_part() -> None:
    assert validate({"config": {}}, SCHEMA, raise_on_error=True, ignore_required=True) == []


def test_a_run_that_lived_while_the_server_was_away_gets_one_period_more_and_its_limit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, ids = (zombies(), overdue(timedelta(hours=2), "limit-2h")), (uuid4(), uuid4())
    past = datetime.now(UTC) - timedelta(minutes=5)

    async def ends() -> list[timedelta]:
        db = provide_database_interface()
        await db.create_db()
        async with db.session_context(begin_transaction=True) as session:
            for rule, id in zip(rules, ids, strict=True):
                trigger = EventTrigger.model_validate(rule.trigger.model_dump())
                session.add(db.Automation(id=id, name=rule.name, trigger=trigger, actions=[], actions_on_trigger=[],
                                          actions_on_resolve=[]))  # fmt: skip
                await session.flush()
                session.add(db.AutomationBucket(automation_id=id, trigger_id=trigger.id, bucketing_key=["run"],
                                                start=past, end=past, count=0))  # fmt: skip

        found: dict[UUID, datetime] = {}

        @asynccontextmanager
        async def services(docket: None, ephemeral: bool, webserver_only: bool) -> AsyncIterator[None]:
            async with db.session_context() as session:
                buckets = await session.execute(sa.select(db.AutomationBucket.automation_id, db.AutomationBucket.end))
                found.update(buckets.tuples().all())
            yield

        monkeypatch.setattr(server, "their_worker", services)
        async with server.begin_work(None):
            return [found[id] - datetime.now(UTC) for id in ids]

    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/prefect.db"}):
        heartbeat, limit = asyncio.run(ends())
    assert timedelta(seconds=80) < heartbeat <= zombies().trigger.within
    assert limit < timedelta(0)


def test_a_run_keeps_its_place_under_a_limit_through_an_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ran out while it could not renew it, or is about to."""

    @asynccontextmanager
    async def services(docket: None, ephemeral: bool, webserver_only: bool) -> AsyncIterator[None]:
        assert await get_concurrency_lease_storage().read_expired_lease_ids() == []
        yield

    async def left() -> list[timedelta]:
        leases = get_concurrency_lease_storage()
        made = [await leases.create_lease([uuid4()], timedelta(minutes=minutes)) for minutes in (-3, 1, 1000)]
        async with server.begin_work(None):
            found = [await leases.read_lease(lease.id) for lease in made]
        return [lease.expiration - datetime.now(UTC) for lease in found if lease]

    async def nothing() -> None:
        pass

    monkeypatch.setattr(server, "their_worker", services)
    monkeypatch.setattr(server, "hear_again", nothing)
    kept = {
        PREFECT_HOME: tmp_path,
        PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE: "prefect.server.concurrency.lease_storage.filesystem",
    }
    with temporary_settings(kept):
        lapsed, short, long = asyncio.run(left())
    assert min(lapsed, short) > timedelta(minutes=4)
    assert max(lapsed, short) <= server.LEASE
    assert long > timedelta(minutes=990), "none is shortened"


def test_it_says_so_before_prefects_services_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "app", lambda: None)
    monkeypatch.setattr("sys.argv", ["flows.server"])
    for module, name in ((server.deployments, "validate"), (server.schemas, "validate"),
                         (server.server, "background_worker")):  # fmt: skip
        monkeypatch.setattr(module, name, None)
    server.main()
    assert server.server.background_worker is server.begin_work
