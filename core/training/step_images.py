"""Pictures of a fixed few validation forecasts, drawn anew at each validation, so that a run shows how it learns."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from matplotlib.figure import Figure

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.meta.checks import Examples
from core.meta.learner import Learner
from core.meta.state import LearnerState
from core.meta.workers import Workers
from core.training.validation import Validation
from core.verify.baselines import last_frame
from core.verify.mixture import Mixture
from core.verify.panels import panels
from core.verify.plots import forecast_sheet
from core.verify.scoring import episode_of


def step_images(
    validation: Validation, store: EpisodeStore, workers: Workers, state: LearnerState, step: int, episodes: int = 2
) -> Iterator[tuple[str, Figure]]:
    """A name, the same at every step, and the adapted forecast of the query window in which most changes, of each."""
    chosen = validation.ids[:: max(len(validation.ids) // episodes, 1)][:episodes]

    def forecast(learner: Learner, identity: int) -> tuple[Windows, Mixture]:
        batch = validation.source.load([identity]).to(validation.device)
        support, query = episode_of(batch.support, 0), _liveliest(episode_of(batch.query, 0), len(store.channels))
        seen, wanted = (Examples(part.x, part.y, part.mask) for part in (support, query))
        mixture = validation.forecast(learner, state, seen, wanted, learner.inner.steps)
        return query.only().to("cpu"), Mixture(mixture.means.cpu(), mixture.std.cpu())

    for identity, (query, mixture) in zip(chosen, workers.map(forecast, chosen), strict=True):
        inputs, shown = panels(query, 0, "adapted", mixture, store)
        title = f"validation episode {identity}, {query.init_time[0].astype('datetime64[m]')} UTC, step {step}"
        yield (
            f"validation-{identity}",
            forecast_sheet(inputs, shown, tuple(store.lead_minutes), store.spec.kinds[0], title),
        )


def _liveliest(query: Windows, channels: int) -> Windows:
    """The one window whose last input frame is the worst forecast of its targets: a function of the data alone."""
    planes, height, width = query.y.shape[1:]
    last = last_frame(query.only().x, channels, planes // channels, height, width)
    change = torch.where(query.mask, (query.y - last).square(), 0.0).flatten(1).mean(1)
    best = slice(int(change.argmax()), int(change.argmax()) + 1)
    return replace(query, x=query.x[best], y=query.y[best], mask=query.mask[best], init_time=query.init_time[best])
