"""Keys and passwords that the stack makes for itself, once, in a file that only its owner reads."""

import json
import secrets
from pathlib import Path

from deployments.stack.notes import write_whole

MADE = {
    "AWS_ACCESS_KEY_ID": 10,
    "AWS_SECRET_ACCESS_KEY": 20,
    "MLFLOW_DATABASE_PASSWORD": 24,
    "MLFLOW_FLASK_SERVER_SECRET_KEY": 32,
    "POSTGRES_PASSWORD": 24,
    "PREFECT_DATABASE_PASSWORD": 24,
}  # length in bytes; letters and digits, since some become part of an address


def read_secrets(folder: Path) -> dict[str, str]:
    """The secrets of a stack by name; those that are missing are made."""
    path = folder / "secrets.json"
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    if missing := {name: secrets.token_hex(length) for name, length in MADE.items() if name not in known}:
        known |= missing
        write_whole(path, json.dumps(known), mode=0o600)
    return known
