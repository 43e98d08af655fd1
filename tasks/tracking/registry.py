"""Models by name: the rule by which a candidate becomes champion, and a model's files on this machine."""

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from core.config import TrackingConfig
from core.errors import FewcastError
from tasks.tracking.model import ALIAS
from tasks.tracking.server import open_client
from tasks.tracking.uri import tracking_uri

CHAMPION = "champion"
SCORE = "validation_crps"


def promote(tracking: TrackingConfig) -> str:
    """Give the alias `champion` to the candidate, if its validation CRPS is lower than the champion's.

    Both scores must come from the same episodes (by digest): others cannot be compared. Test is never looked at.
    Returns what was decided and why, and leaves it as a tag on the candidate.
    """
    client, name = open_client(tracking_uri(tracking)), tracking.experiment or "fewcast"
    candidate, champion = (_by_alias(client, name, alias) for alias in (ALIAS, CHAMPION))
    if candidate is None:
        raise FewcastError(f"no model {name} has the alias {ALIAS}", found="none in the registry", mend="train one")
    promoted, verdict = judge(candidate, champion)
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, candidate.version)
    client.set_model_version_tag(name, candidate.version, "promotion", verdict)
    return f"{name} {verdict}"


def judge(candidate: ModelVersion, champion: ModelVersion | None) -> tuple[bool, str]:
    """Whether the candidate takes over, and the reason."""
    new = float(candidate.tags.get(SCORE, "nan"))
    if new != new:
        return False, f"version {candidate.version} stays candidate: it has no {SCORE}"
    if champion is None:
        return True, f"version {candidate.version} is champion: there was none ({SCORE} {new:.4f})"
    if champion.version == candidate.version:
        return False, f"version {candidate.version} is champion already"
    if champion.tags.get("episodes") != candidate.tags.get("episodes"):
        return False, (
            f"version {candidate.version} stays candidate: its scores are from other episodes than those of the "
            f"champion, version {champion.version}; evaluate both on one store and set the alias by hand"
        )
    old = float(champion.tags.get(SCORE, "nan"))
    better = not old <= new
    words = "is champion" if better else "stays candidate"
    return better, f"version {candidate.version} {words}: {SCORE} {new:.4f} against {old:.4f} of {champion.version}"


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        found: ModelVersion = client.get_model_version_by_alias(name, alias)
        return found
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
