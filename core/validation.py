"""Held-out episodes scored while a run trains: adapted and at M = 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from core.calibration import Calibration, coverage_ladder
from core.episodes.loader import EpisodeBatch, Loader
from core.errors import FewcastError
from core.meta.checks import Examples
from core.meta.learner import Learner, LearnerState
from core.meta.parallel import Ranks, Workers
from core.run import Run
from core.verify.mixture import Mixture
from core.verify.statistics import metrics, window_statistics

_LADDER = "ladder"


class Source(Protocol):
    """Where episodes come from, by id."""

    def load(self, ids: Sequence[int]) -> EpisodeBatch: ...


@dataclass(frozen=True)
class Validated:
    """What held-out episodes say of a prior: metrics by name, and how its forecasts are to be calibrated."""

    values: dict[str, float]
    calibrations: dict[str, Calibration] = field(default_factory=dict)  # of the `adapted` and of the `prior` forecast


class Validation:
    """A fixed set of episodes and a fixed seed, so that two validations differ by the prior alone.

    Ranks share the episodes, and what they add up is sums over pixels: the result is one rank's but for the order of
    summation.
    """

    def __init__(
        self,
        source: Source,
        ids: Sequence[int],
        *,
        members: int,
        leads: Sequence[int],
        seed: int,
        ranks: Ranks,
        device: torch.device,
        calibrate: bool = False,
    ) -> None:
        self.calibrate = calibrate
        self.source, self.ids, self.members, self.leads = source, tuple(ids), members, tuple(leads)
        self.seed, self.ranks, self.device = seed, ranks, device

    def run(self, workers: Workers, state: LearnerState) -> Validated:
        """CRPS, RMSE, NLL, spread-skill and coverage over all leads, CRPS and RMSE of each; `prior_` where M = 0.

        `gain` is the fraction of the M = 0 CRPS that adaptation takes away. Without an inner loop there is one
        forecast, the prior's, and no gain.
        """
        sums: dict[str, np.ndarray] = {}
        too_few = len(self.ids) < self.ranks.size  # then every rank scores all, and ratios of sums stay the same
        mine = self.ids if too_few else self.ids[self.ranks.rank :: self.ranks.size]
        for found in workers.map(lambda learner, identity: self._statistics(learner, state, identity), mine):
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        total = self._over_ranks(sums)
        ladders = {name: total.pop(name) for name in list(total) if name.endswith(_LADDER)}
        calibrations = {
            "prior" if name.startswith("prior_") else "adapted": Calibration.fit(ladder)
            for name, ladder in ladders.items()
        }
        return Validated(self._summary(total) | self._named(calibrations), calibrations)

    def _statistics(self, learner: Learner, state: LearnerState, identity: int) -> dict[str, np.ndarray]:
        """Sums over the pixels and query windows of an episode, per lead."""
        support, query = self._episode(identity)
        sums = {}
        for name, mixture in self.forecasts(learner, state, support, query).items():
            assert query.mask is not None
            for statistic, values in window_statistics(mixture, query.y, query.mask).items():
                sums[f"{name}{statistic}"] = values.sum(0).reshape(len(self.leads), -1).sum(1)
            if self.calibrate:
                sums[f"{name}{_LADDER}"] = coverage_ladder(mixture, query.y, query.mask)
        return sums

    def _episode(self, identity: int) -> tuple[Examples, Examples]:
        batch = self.source.load([identity])
        support, query = (
            Examples(*(part[0].to(self.device) for part in (windows.x, windows.y, windows.mask)))
            for windows in (batch.support, batch.query)
        )
        return support, query

    def forecasts(
        self, learner: Learner, state: LearnerState, support: Examples, query: Examples
    ) -> dict[str, Mixture]:
        """The adapted forecast of the query as "", and where there is an inner loop the prior's as "prior_"."""
        steps = {"": None, "prior_": 0} if learner.inner.steps else {"": 0}
        found = {}
        for name, count in steps.items():
            posterior = learner.posterior(state, support, steps=count, seed=self.seed)
            generator = torch.Generator(query.x.device).manual_seed(self.seed)
            found[name] = Mixture(*learner.predict(posterior, query.x, self.members, generator))
        return found

    def _named(self, calibrations: Mapping[str, Calibration]) -> dict[str, float]:
        """Each lead time's factor on the adapted forecast's std, the mean over channels."""
        if "adapted" not in calibrations:
            return {}
        of_leads = np.reshape(calibrations["adapted"].factor, (len(self.leads), -1)).mean(1)
        return {f"std_factor_{m}min": float(v) for m, v in zip(self.leads, of_leads, strict=True)}

    def _over_ranks(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = self.ranks.sum({name: torch.from_numpy(value).to(self.device) for name, value in sums.items()})
        return {name: value.cpu().numpy() for name, value in total.items()}

    def _summary(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        values: dict[str, float] = {}
        for prefix in ("", "prior_"):
            state = {n.removeprefix(prefix): s for n, s in sums.items() if n.startswith("prior_") == bool(prefix)}
            if not state:
                continue
            overall = metrics({name: value.sum() for name, value in state.items()})
            values |= {f"{prefix}{name}": float(value) for name, value in overall.items()}
            for name in ("crps", "rmse"):
                per_lead = metrics(state)[name]
                values |= {f"{prefix}{name}_{m}min": float(v) for m, v in zip(self.leads, per_lead, strict=True)}
        if "prior_crps" in values:
            values["gain"] = 1 - values["crps"] / values["prior_crps"]
        return values


def validation_of(run: Run, ranks: Ranks) -> Validation:
    """The run's fixed validation episodes; `FewcastError` where the store has none."""
    config, store = run.config, run.store
    ids = [int(i) for i in store.ids("validation")]
    if not ids:
        raise FewcastError(
            f"the episode store {config.episodes} has no validation episodes",
            found="none among its splits",
            mend="give episodes.split.validation times that have frames",
        )
    return Validation(
        Loader(store, split="validation", seed=config.seed, extra=config.network.extra_inputs),
        spread_evenly(ids, config.validation_episodes),
        members=config.validation_members,
        leads=run.spec.lead_minutes,
        seed=config.seed,
        ranks=ranks,
        device=run.device,
        calibrate=config.calibrate,
    )


def spread_evenly(ids: Sequence[int], count: int) -> list[int]:
    """At most `count` of `ids`, at even distances, so that every kind of hold-out has its share."""
    count = min(count, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count)]
