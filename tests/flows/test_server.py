"""The check of a run's values in Prefect's server: what it refuses, in which words. test_deploy sees it at work."""

from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError

from core.config import load
from flows.ingest import ingest
from flows.server import validate, validate_form

SCHEMA = parameter_schema(ingest.fn).model_dump_for_openapi()
RETRIES = (
    "config.retries is refused: found 99 (Input should be less than or equal to 20); "
    "give it as described: Further tries of a download that failed. From 0 to 20."
)


def values(**changes: Any) -> dict[str, Any]:
    config = load(Path(__file__).with_name("tiny.toml")).ingest.model_dump(mode="json")
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
        ({"channels": []}, "config.channels is refused: found List should have at least 1 item after validation, "
         "not 0; give it as described: Channels to keep, by the system's own names."),
    ],
)  # fmt: skip
def test_a_run_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        validate(values(**changes), SCHEMA, raise_on_error=True)
    assert str(caught.value) == line


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
