"""One setting for structured logs: FEWCAST_LOGS=json makes every line on stderr one JSON object."""

import os
from collections.abc import Mapping

from core.errors import FewcastError

FORMS = ("text", "json")


def wants_json(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether structured logs are asked for; `FewcastError` for a form that there is not."""
    form = environment.get("FEWCAST_LOGS", "") or "text"
    if form not in FORMS:
        raise FewcastError("no such form of logs", found=f"FEWCAST_LOGS={form}", mend=f"choose {' or '.join(FORMS)}")
    return form == "json"


def log_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Prefect's own settings for it, for a process that runs flows, a worker or a server; nothing for plain text.

    An object has the time, level, logger and message, and in a run its id, name, flow and task.
    """
    if not wants_json(environment):
        return {}
    return {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER": "json",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_LOGGING_COLORS": "false",
    }
