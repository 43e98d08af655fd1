"""`python -m flows.worker` is `prefect worker start`, whose runs can be cancelled after an absence of the server too.

A worker hears over a socket which of its runs are to end, and asks the server when that breaks. Prefect gives up asking
after three questions without an answer, for the rest of those runs: no button and no limit would end them any more.
"""

import sys
from typing import Any

from prefect._internal import observers
from prefect.cli import app
from prefect.logging import get_logger

theirs = observers.critical_service_loop


def main() -> None:
    """Start a worker with the options of `prefect worker start`."""
    ask_on()
    sys.argv[1:1] = ["worker", "start"]
    app()


def ask_on() -> None:
    """Let whatever watches over runs in this process ask for as long as the server is away."""
    observers.critical_service_loop = patient_loop


async def patient_loop(*asked: Any, **options: Any) -> None:
    """Prefect's loop, begun anew where it gives up; a refusal (a status below 500) ends it as before."""
    while True:
        try:
            return await theirs(*asked, **{**options, "printer": lambda *_: None})
        except RuntimeError:
            get_logger("worker").warning("No word from the Prefect server of runs to cancel; asking on.")


if __name__ == "__main__":
    main()
