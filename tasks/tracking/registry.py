"""Models by name: the rule by which a candidate becomes champion."""

from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from core.config import TrackingConfig
from core.errors import AwayError, FewcastError
from core.model import Model
from core.report import Report
from core.training.validation import crps_beside
from tasks.tracking.local import local_run
from tasks.tracking.model import ALIAS
from tasks.tracking.server import open_client
from tasks.tracking.uri import tracking_uri

CHAMPION = "champion"
SCORE, SCORED_ON = "validation_crps", "scored_on"


def champion_run(tracking: TrackingConfig, report: Report) -> str:
    """The champion's checkpoint on this machine; empty where there is none yet."""
    try:
        return local_run(f"models:/{tracking.experiment or 'fewcast'}@{CHAMPION}", tracking, report)
    except AwayError:
        raise
    except FewcastError:
        return ""


def promote(tracking: TrackingConfig, report: Report) -> str:
    """Give the alias `champion` to the candidate, if its validation CRPS is lower than the champion's.

    Both scores are of the same episodes, with as many members and the same seed (by digest): where they are not, or the
    champion has none, it is scored anew as the candidate was. Test is never looked at. Returns what was decided and
    why, and leaves it as a tag on the candidate.
    """
    client, name = open_client(tracking_uri(tracking)), tracking.experiment or "fewcast"
    candidate, champion = (_by_alias(client, name, alias) for alias in (ALIAS, CHAMPION))
    if candidate is None:
        raise FewcastError(f"no model {name} has the alias {ALIAS}", found="none in the registry", mend="train one")

    def anew() -> float | None:
        assert champion is not None
        report.message(f"scoring version {champion.version} on the validation episodes of version {candidate.version}")
        runs = (local_run(f"models:/{name}/{item.version}", tracking, report) for item in (champion, candidate))
        return crps_beside(*map(Model.load, runs))

    promoted, verdict = judge(candidate, champion, anew)
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, candidate.version)
    client.set_model_version_tag(name, candidate.version, "promotion", verdict)
    return f"{name} {verdict}"


def judge(candidate: ModelVersion, champion: ModelVersion | None, anew: Callable[[], float | None]) -> tuple[bool, str]:
    """Whether the candidate takes over, and the reason.

    `anew` scores the champion on the candidate's validation episodes; None: they cannot be compared.
    """
    new = float(candidate.tags.get(SCORE, "nan"))
    if new != new:
        return False, f"version {candidate.version} stays candidate: it has no {SCORE}"
    if champion is None:
        return True, f"version {candidate.version} is champion: there was none ({SCORE} {new:.4f})"
    if champion.version == candidate.version:
        return False, f"version {candidate.version} is champion already"
    kept = float(champion.tags.get(SCORE, "nan"))
    same = SCORED_ON in candidate.tags and candidate.tags[SCORED_ON] == champion.tags.get(SCORED_ON) and kept == kept
    old = kept if same else anew()
    if old is None:
        return False, (
            f"version {candidate.version} stays candidate: it forecasts other frames, or in other units, than the "
            f"champion, version {champion.version}, or its episodes are gone; compare them, and set the alias by hand"
        )
    better = new < old
    words = "is champion" if better else "stays candidate"
    where = "" if same else ", scored anew on the candidate's episodes"
    return better, (
        f"version {candidate.version} {words}: {SCORE} {new:.4f} against {old:.4f} of version {champion.version}{where}"
    )


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    try:
        found: ModelVersion = client.get_model_version_by_alias(name, alias)
        return found
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
