"""What the stages share: immutable models without stray keys, times in UTC, and events."""

from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _as_text(value: Any) -> Any:
    if isinstance(value, str) and (value := value.strip()):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r}, which is no ISO time such as 2024-06-01T03:00Z") from None
    return f"{_as_utc(value):%Y-%m-%dT%H:%M:%SZ}" if isinstance(value, datetime) else value


UTCTime = Annotated[datetime, AfterValidator(_as_utc)]
# An ISO time as text, or nothing; TOML takes a full one for a datetime.
TimeText = Annotated[str, BeforeValidator(_as_text)]


class Stage(BaseModel):
    """What all stages share: immutable, and no key that nothing reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Bounds stand in the description too, since a form shows no others."""
        made = handler(schema)
        for field in handler.resolve_ref_schema(made).get("properties", {}).values():
            if words := _bounds(field):
                field["description"] = f"{field['description']} {words}"
        return made


def _bounds(field: dict[str, Any]) -> str:
    """`From 0 to 100.`, `Above 0.`, ... of a number's schema; empty where it has none."""
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, below = field.get("maximum"), field.get("exclusiveMaximum")
    lower = f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    upper = f"to {high:g}" if high is not None else f"below {below:g}" if below is not None else ""
    words = (", up " if above is not None else " ").join(part for part in (lower, upper) if part)
    return words[:1].upper() + words[1:] + "." if words else ""


class TimeRange(Stage):
    """A half-open span of time."""

    start: UTCTime = Field(description="First instant (UTC), included.")
    end: UTCTime = Field(description="Last instant (UTC), excluded.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%d %H:%M} must come after start {self.start:%Y-%m-%d %H:%M}")
        return self


class Threshold(Stage):
    """An event whose probability a forecast states: a channel above, or below, a value."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_]+$", description="Name of the event, as cold_tops.")
    channel: str = Field("", description="Channel, by the archive's name; empty: the first.")
    value: float = Field(ge=-100, le=65_534, description="Threshold in the channel's units (K, percent or counts).")
    above: bool = Field(False, description="The event is a value above the threshold; off: below it.")


def _named_once(thresholds: list[Threshold]) -> list[Threshold]:
    twice = [name for name, count in Counter(one.name for one in thresholds).items() if count > 1]
    if twice:
        raise ValueError(f"several events are called {', '.join(twice)}: give each a name of its own")
    return thresholds


# Scores and probabilities are found by the event's name.
Thresholds = Annotated[list[Threshold], AfterValidator(_named_once)]
