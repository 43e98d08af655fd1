"""Who may come in: FEWCAST_AUTH, or a file that FEWCAST_AUTH_FILE names, holding `user:password`; and whose pages."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import FewcastError

SHORTEST = 12  # MLflow's own rule
USERS = "mlflow-users.db"  # in the data folder
MLFLOW_ASKS = ("--app-name", "basic-auth")  # words that make `mlflow server` ask for a password


@dataclass(frozen=True)
class Auth:
    """A user and a password, which no representation shows."""

    user: str
    password: str = field(repr=False)

    def for_clients(self) -> dict[str, str]:
        """What the clients of Prefect and MLflow read."""
        return {
            "PREFECT_API_AUTH_STRING": f"{self.user}:{self.password}",
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def for_prefect_server(self) -> dict[str, str]:
        """What the Prefect server reads."""
        return {"PREFECT_SERVER_API_AUTH_STRING": f"{self.user}:{self.password}"}

    def for_mlflow_server(self, data: Path, secret: str) -> dict[str, str]:
        """What an MLflow server with `MLFLOW_ASKS` reads; the file of settings is written.

        User and password count when it first starts over a data folder; later it knows its users itself.
        """
        settings = data / "mlflow-auth.ini"
        settings.write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{data / USERS}\n")
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secret,  # of its forms
        }


def read_auth(environment: Mapping[str, str] = os.environ) -> Auth | None:
    """The setting, or None where there is none: then Prefect and MLflow do what anyone on the machine asks.

    Raises `FewcastError`, which never shows what was given.
    """
    text = environment.get("FEWCAST_AUTH", "")
    if not text and (file := environment.get("FEWCAST_AUTH_FILE", "")):
        try:
            text = Path(file).read_text().strip()
        except OSError as error:
            raise FewcastError(
                "FEWCAST_AUTH_FILE cannot be read",
                found=f"{file}: {error.strerror}",
                mend="name a file with user:password",
            ) from error
        text = text or ":"
    if not text:
        return None
    user, _, password = text.partition(":")
    if not user or len(password) < SHORTEST:
        raise FewcastError(
            "FEWCAST_AUTH is not user:password",
            found=f"a user of {len(user)} and a password of {len(password)} characters",
            mend=f"give a user, a colon, and a password of at least {SHORTEST} characters",
        )
    return Auth(user, password)


def pages_of_prefect(address: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a Prefect server reads of its own pages: where they ask, and that no other site's may ask.

    Behind another name (a proxy, a machine's own) `FEWCAST_PREFECT_URL` says which, as the browser shows it.
    """
    named = environment.get("FEWCAST_PREFECT_URL", "").rstrip("/") or address
    origins = dict.fromkeys((named, address, address.replace("127.0.0.1", "localhost")))
    return {
        "PREFECT_SERVER_UI_API_URL": f"{named}/api",  # by default the page asks the one at 4200, whatever its port
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),  # by default every site's pages may
    }


def open_doors() -> None:
    """Put the setting where the clients of this process and its children look; prefect looks when it is imported."""
    if auth := read_auth():
        for key, value in auth.for_clients().items():
            os.environ.setdefault(key, value)
