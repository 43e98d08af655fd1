"""`python -m flows.server` is `prefect server start`, whose forms refuse a bad value in our words.

Prefect holds the values of a run against the JSON schema of its flow. That knows bounds, but not how two values must
agree, and says no more than `101 is greater than the maximum of 100`. Prefect has no opening for another check, so ours
is put before its own in the two modules that call it: one starts runs, the other answers a form while it is filled in.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError as SchemaError
from prefect.cli import app
from prefect.server.api import deployments
from prefect.server.api.ui import schemas
from prefect.utilities.schema_tools import validation
from prefect.utilities.schema_tools.hydration import Placeholder
from pydantic import ValidationError

from core import config
from core.config.problems import problems
from core.errors import FewcastError

STAGES = {
    name: item for name, item in vars(config).items() if isinstance(item, type) and issubclass(item, config.Stage)
}
theirs = validation.validate


def main() -> None:
    """Start the server with the options of `prefect server start`."""
    deployments.validate = schemas.validate = validate
    sys.argv[1:1] = ["server", "start"]
    app()


def validate(
    obj: dict[str, Any],
    schema: Mapping[str, Any],
    raise_on_error: bool = False,
    preprocess: bool = True,
    ignore_required: bool = False,
    allow_none_with_default: bool = False,
) -> list[SchemaError]:
    """Prefect's check of values against a schema, after that of our models where the schema is of them.

    What a deployment presets (`ignore_required`) may be a part of what a run needs, and values that stand for others
    (Prefect's placeholders) are none yet: both are left to Prefect.
    """
    found = [] if ignore_required else list(refusals(obj, schema))
    if not found or any(isinstance(refusal.instance, Placeholder) for refusal in found):
        return theirs(obj, schema, raise_on_error, preprocess, ignore_required, allow_none_with_default)
    if raise_on_error:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise validation.ValidationError(f"{found[0].message}{more}")
    return found


def refusals(values: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[SchemaError]:
    """What our models refuse in the values of a run: one line each, at its place in the form."""
    for name, part in schema.get("properties", {}).items():
        stage = _stage(part, schema)
        if stage is None or name not in values:
            continue
        try:
            stage.model_validate(values[name])
        except ValidationError as error:
            for problem in problems(error, stage):
                place = (name, *problem.place)
                line = FewcastError(
                    f"{'.'.join(map(str, place))} is refused",
                    found=problem.found,
                    mend=f"give it as described: {problem.meaning}",
                )
                yield SchemaError(str(line), path=place, instance=problem.given)


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
