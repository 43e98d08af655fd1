"""The rule by which a candidate becomes champion."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.tracking import registry


def version(number: int, crps: str, episodes: str = "e") -> Any:
    return SimpleNamespace(version=str(number), tags={"validation_crps": crps, "scored_on": episodes})


def judge(candidate: Any, champion: Any, anew: float | None = None) -> tuple[bool, str]:
    return registry.judge(candidate, champion, lambda: anew)


def test_a_candidate_takes_over_only_with_a_lower_score_on_the_same_episodes() -> None:
    champion = version(1, "0.20")
    assert judge(version(2, "0.19"), champion)[0]
    assert not judge(version(2, "0.20"), champion)[0]
    assert not judge(version(2, "0.21"), champion)[0]
    assert not judge(version(2, "0.10", episodes="others"), champion)[0]
    assert not judge(version(2, "nan"), champion)[0]
    assert not judge(version(2, "nan"), None)[0]
    assert judge(version(2, "0.9"), None)[0]
    assert not judge(version(1, "0.20"), champion)[0]


@pytest.mark.parametrize("lacks", ["validation_crps", "scored_on"])
def test_a_champion_that_does_not_say_its_score_or_what_it_is_of_is_scored_anew(lacks: str) -> None:
    candidate, champion = version(2, "0.3"), version(1, "0.2")
    del champion.tags[lacks]
    assert not judge(candidate, champion)[0], "it cannot be"
    assert not judge(candidate, champion, 0.29)[0]
    assert judge(candidate, champion, 0.31)[0]
    assert judge(candidate, version(1, "nan"), 0.31)[1].endswith("scored anew on the candidate's episodes")


def test_a_candidate_of_an_earlier_version_does_not_say_what_its_score_is_of() -> None:
    candidate, champion = version(2, "0.3"), version(1, "0.4")
    del candidate.tags["scored_on"], champion.tags["scored_on"]
    assert not judge(candidate, champion, 0.29)[0]


def test_the_verdict_says_both_numbers() -> None:
    _, verdict = judge(version(7, "0.1234"), version(5, "0.2345"))
    assert verdict == "version 7 is champion: validation_crps 0.1234 against 0.2345 of version 5"


@pytest.mark.parametrize(("anew", "promoted"), [(0.16, True), (0.14, False)])
def test_after_the_store_or_what_is_scored_has_changed_the_champion_is_scored_anew(anew: float, promoted: bool) -> None:
    better, verdict = judge(version(2, "0.15", episodes="more"), version(1, "0.20"), anew)
    assert better == promoted
    assert verdict.endswith(f"0.1500 against {anew:.4f} of version 1, scored anew on the candidate's episodes")
