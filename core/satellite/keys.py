"""What keys tell: the folders of a span of time, and the moment that a name spells."""

from datetime import datetime, timedelta

import numpy as np

from core.config import TimeRange


def folders(pattern: str, times: TimeRange) -> list[str]:
    """The folder that a strftime pattern spells, once for every hour (or day, where it names no hour) of the times."""
    step = timedelta(hours=1) if "%H" in pattern else timedelta(days=1)
    moment = times.start.replace(hour=times.start.hour if "%H" in pattern else 0, minute=0, second=0, microsecond=0)
    count = -(-(times.end - moment) // step)
    return sorted({f"{(moment + i * step).strftime(pattern)}/" for i in range(count)})


def moment(text: str, pattern: str, slot_minutes: int = 0) -> np.datetime64 | None:
    """The time that a text spells, down to the slot it lies in; None where it spells none."""
    try:
        time = datetime.strptime(text, pattern)
    except ValueError:
        return None
    if slot_minutes:
        time = time.replace(minute=time.minute // slot_minutes * slot_minutes, second=0)
    return np.datetime64(time, "s")
