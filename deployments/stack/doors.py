"""Whether a server asks for the password that is set. One that was started without it, or with another, goes on so."""

import base64
import urllib.error
import urllib.request
from pathlib import Path

from core.errors import FewcastError
from flows.access import Auth

ASKED = {"prefect": "/api/admin/version", "mlflow": "/api/2.0/mlflow/experiments/search?max_results=1"}


def try_door(name: str, address: str, auth: Auth, users: Path) -> None:
    """`FewcastError` where a server lets in who has no password, or does not let in who has it."""
    if _status(address + ASKED[name]) == 200:
        raise FewcastError(
            f"{name} asks for no password", found="it was started without FEWCAST_AUTH", mend="`make down`, `make up`"
        )
    if (status := _status(address + ASKED[name], auth)) == 200:
        return
    if name == "mlflow":
        raise FewcastError(
            "MLflow does not take FEWCAST_AUTH",
            found=f"status {status}: it keeps the password that it was first given",
            mend=f"`make down`, delete {users}, which holds users alone, and `make up`",
        )
    raise FewcastError(
        f"{name} does not take FEWCAST_AUTH",
        found=f"status {status}: it was started with another",
        mend="`make down`, `make up`",
    )


def _status(url: str, auth: Auth | None = None) -> int:
    headers = {}
    if auth:
        headers["Authorization"] = f"Basic {base64.b64encode(f'{auth.user}:{auth.password}'.encode()).decode()}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        raise FewcastError(f"no answer from {url}", found=str(error), mend="run `make up` again") from error
