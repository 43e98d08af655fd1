"""Held-out episodes scored while a run trains: adapted and at M = 0."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from core.calibration import Calibration, coverage_ladder
from core.config import TrainConfig
from core.config.train import ExtraInput
from core.episodes.loader import EpisodeBatch, Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import DivergedError, Examples
from core.meta.learner import Learner
from core.meta.parallel import Ranks
from core.meta.state import LearnerState
from core.meta.workers import Workers
from core.model import Model
from core.training.run import Run
from core.verify.mixture import Mixture
from core.verify.statistics import metrics, window_statistics

_LADDER, _DIVERGED = "ladder", "diverged"
_Sums = Mapping[str, np.ndarray]  # statistic -> sums per lead


class Source(Protocol):
    """Where episodes come from, by id."""

    def load(self, ids: Sequence[int]) -> EpisodeBatch: ...


@dataclass(frozen=True)
class Validated:
    """What held-out episodes say of a prior: metrics by name, and how its forecasts are to be calibrated."""

    values: dict[str, float]
    calibrations: dict[str, Calibration] = field(default_factory=dict)  # of the `adapted` and of the `prior` forecast
    steps: int = 0  # inner steps of the adapted forecast


class Validation:
    """A fixed set of episodes and a fixed seed, so that two validations differ by the prior alone.

    Ranks share the episodes, and what they add up is sums over pixels: the result is one rank's but for the order of
    summation. Forecasts are calibrated on the episodes `calibrate`; none: not at all.
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
        calibrate: Collection[int] = (),
    ) -> None:
        self.calibrate = frozenset(calibrate)
        self.source, self.ids, self.members, self.leads = source, tuple(ids), members, tuple(leads)
        self.seed, self.ranks, self.device = seed, ranks, device

    def run(self, workers: Workers, state: LearnerState) -> Validated:
        """CRPS, RMSE, NLL, spread-skill and coverage over all leads, CRPS and RMSE of each; `prior_` where M = 0.

        `gain` is the fraction of the M = 0 CRPS that adaptation takes away. Without an inner loop there is one
        forecast, the prior's, and no gain. Where more numbers of inner steps than one are tried, the adapted forecast
        is that of the least CRPS, and `crps_steps_M` is the CRPS of each that diverges on no episode.
        """
        sums: dict[str, np.ndarray] = {}
        too_few = len(self.ids) < self.ranks.size  # then every rank scores all, and ratios of sums stay the same
        mine = self.ids if too_few else self.ids[self.ranks.rank :: self.ranks.size]
        for found in workers.map(lambda learner, identity: self._statistics(learner, state, identity), mine):
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        by_steps: dict[int, dict[str, np.ndarray]] = {}
        for name, value in self._over_ranks(sums).items():
            steps, _, statistic = name.partition("/")
            by_steps.setdefault(int(steps), {})[statistic] = value
        ladders = {steps: total.pop(_LADDER) for steps, total in by_steps.items() if _LADDER in total}
        sound = [steps for steps, total in by_steps.items() if not total.pop(_DIVERGED).any()]
        tried = {steps: _overall(by_steps[steps])["crps"] for steps in sound if steps or sound == [0]}
        best = min(tried, key=tried.__getitem__)
        forecasts = {"adapted": best} | ({"prior": 0} if best else {})
        calibrations = {name: Calibration.fit(ladders[steps]) for name, steps in forecasts.items() if ladders}
        values = self._summary(by_steps[best]) | self._named(calibrations)
        if best:
            values |= {f"prior_{name}": value for name, value in self._summary(by_steps[0]).items()}
            values["gain"] = 1 - values["crps"] / values["prior_crps"]
        if len(tried) > 1:
            values |= {f"crps_steps_{steps}": crps for steps, crps in tried.items()}
        return Validated(values, calibrations, best)

    def _statistics(self, learner: Learner, state: LearnerState, identity: int) -> dict[str, np.ndarray]:
        """Sums over the pixels and query windows of an episode, per lead, for each number of inner steps."""
        support, query = self._episode(identity)
        sums = {}
        trained = learner.inner.steps
        for steps in dict.fromkeys((0, trained, *(learner.inner.steps_to_try if trained else ()))):
            diverged = False
            try:
                mixture, scored = self._scored(learner, state, support, query, steps)
            except DivergedError:
                if steps in (0, trained):
                    raise
                diverged = True  # this number is out of the choice; what it is given below does not count
            for statistic, values in scored.items():
                sums[f"{steps}/{statistic}"] = values.sum(0).reshape(len(self.leads), -1).sum(1)
            sums[f"{steps}/{_DIVERGED}"] = np.full(len(self.leads), float(diverged))
            if self.calibrate:
                assert query.mask is not None
                seen = query.mask & (identity in self.calibrate)  # all ranks add up the same names
                sums[f"{steps}/{_LADDER}"] = coverage_ladder(mixture, query.y, seen)
        return sums

    def _scored(
        self, learner: Learner, state: LearnerState, support: Examples, query: Examples, steps: int
    ) -> tuple[Mixture, dict[str, np.ndarray]]:
        """The forecast and its statistics; `DivergedError` where it is not finite."""
        mixture = self.forecast(learner, state, support, query, steps)
        assert query.mask is not None
        try:
            return mixture, window_statistics(mixture, query.y, query.mask)
        except ValueError as error:
            raise DivergedError(
                f"a validation forecast after {steps} inner steps is not finite",
                found=str(error),
                mend="lower train.inner.rate or train.learning_rate, or set train.inner.clip",
            ) from error

    def _episode(self, identity: int) -> tuple[Examples, Examples]:
        batch = self.source.load([identity])
        support, query = (
            Examples(*(part[0].to(self.device) for part in (windows.x, windows.y, windows.mask)))
            for windows in (batch.support, batch.query)
        )
        return support, query

    def forecast(
        self, learner: Learner, state: LearnerState, support: Examples, query: Examples, steps: int
    ) -> Mixture:
        """Of the query, after so many inner steps on the support."""
        posterior = learner.posterior(state, support, steps=steps, seed=self.seed)
        generator = torch.Generator(query.x.device).manual_seed(self.seed)
        return Mixture(*learner.predict(posterior, query.x, self.members, generator))

    def _named(self, calibrations: Mapping[str, Calibration]) -> dict[str, float]:
        """Each lead time's factor on the adapted forecast's std, the mean over channels and classes of std."""
        if "adapted" not in calibrations:
            return {}
        of_leads = np.reshape(calibrations["adapted"].factor, (len(self.leads), -1)).mean(1)
        return {f"std_factor_{m}min": float(v) for m, v in zip(self.leads, of_leads, strict=True)}

    def _over_ranks(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        total = self.ranks.sum({name: torch.from_numpy(value) for name, value in sums.items()})
        return {name: value.numpy() for name, value in total.items()}

    def _summary(self, sums: _Sums) -> dict[str, float]:
        """One forecast's metrics over all leads, and two of them at each."""
        values = _overall(sums)
        for name in ("crps", "rmse"):
            per_lead = metrics(sums)[name]
            values |= {f"{name}_{m}min": float(v) for m, v in zip(self.leads, per_lead, strict=True)}
        return values


def _overall(sums: _Sums) -> dict[str, float]:
    return {name: float(v) for name, v in metrics({name: value.sum() for name, value in sums.items()}).items()}


def validation_of(run: Run, ranks: Ranks) -> Validation:
    """The run's fixed validation episodes; `FewcastError` where the store has none."""
    return _validation(run.config, run.store, run.config.network.extra_inputs, ranks, run.device)


def crps_beside(model: Model, other: Model) -> float | None:
    """CRPS of a trained run on the episodes by which validation chose `other`, in the way it did: to compare the two.

    None where they cannot be compared: they forecast other frames or in other units, or `other`'s store is not that
    which it was trained on any more.
    """
    version = checkpoint.read(other.path).meta["episodes_version"]
    store = EpisodeStore.open(other.config.episodes, version)
    if model.spec != other.spec or store.digest != other.episodes_digest:
        return None
    validation = _validation(other.config, store, model.extra_inputs, Ranks(), model.device)
    with closing(Workers([model.learner])) as workers:
        return validation.run(workers, model.state).values["crps"]


def _validation(
    config: TrainConfig, store: EpisodeStore, extra_inputs: Sequence[ExtraInput], ranks: Ranks, device: torch.device
) -> Validation:
    ids = [int(i) for i in store.ids("validation")]
    if not ids:
        raise FewcastError(
            f"the episode store {config.episodes} has no validation episodes",
            found="none among its splits",
            mend="give episodes.split.validation times that have frames",
        )
    chosen = spread_evenly(ids, config.validation_episodes)
    new_times = [i for i in chosen if store.catalog.loc[i, "holdout"] != "region"]  # as those that forecasts are for
    return Validation(
        Loader(store, split="validation", seed=config.seed, extra=extra_inputs),
        chosen,
        members=config.validation_members,
        leads=store.lead_minutes,
        seed=config.seed,
        ranks=ranks,
        device=device,
        calibrate=(new_times or chosen) if config.calibrate else (),
    )


def scored_on(config: TrainConfig, store: EpisodeStore) -> str:
    """Digest of what a run's validation is of: two scores under the same one differ by the prior alone."""
    chosen = spread_evenly([int(i) for i in store.ids("validation")], config.validation_episodes)
    fixed = [store.digest, chosen, config.validation_members, config.seed]
    return hashlib.sha256(json.dumps(fixed).encode()).hexdigest()[:16]


def spread_evenly(ids: Sequence[int], count: int) -> list[int]:
    """At most `count` of `ids`, at even distances, so that every kind of hold-out has its share."""
    count = min(count, len(ids))
    return [ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count)]
