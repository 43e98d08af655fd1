"""The forms of the page, from the schemas that the deployments give the server."""

from typing import Any

import pytest

from core.config import load
from deployments.catalogue import Entry, catalogue
from flows.cli import PRESETS

KOREAN = catalogue([load(PRESETS / "korea.toml")])


def fields(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every field of a form by its place, those of nested stages by their definition."""
    tables = {"": schema, **schema.get("definitions", {})}
    return {
        f"{name}.{key}": field for name, table in tables.items() for key, field in table.get("properties", {}).items()
    }


@pytest.mark.parametrize("entry", KOREAN, ids=lambda entry: entry.path)
def test_every_field_says_what_it_is_and_every_number_its_bounds(entry: Entry) -> None:
    schema = entry.deployment()._parameter_openapi_schema.model_dump_for_openapi()
    nested = ("$ref", "allOf")  # a stage within a stage is described by its own heading
    found = fields(schema)
    assert found
    bare = [
        place for place, field in found.items() if not field.get("description") and not any(k in field for k in nested)
    ]
    assert not bare
    numbers = {place: field for place, field in found.items() if field.get("type") in ("integer", "number")}
    words = ("From ", "Above ", "To ", "Below ")
    assert not [place for place, field in numbers.items() if not any(word in field["description"] for word in words)]
    bounds = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
    assert not [place for place, field in numbers.items() if not bounds & field.keys()]


@pytest.mark.parametrize("entry", KOREAN, ids=lambda entry: entry.path)
def test_every_form_is_filled_in(entry: Entry) -> None:
    schema = entry.deployment()._parameter_openapi_schema.model_dump_for_openapi()
    assert {*schema.get("required", [])} <= {*entry.parameters}
