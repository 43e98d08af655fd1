"""Many episodes as one: each leaf of lambda gets a leading axis of episodes, and one vmap runs the network for all.

Small networks spend their time on calling operators, not in them. Stacked, a meta-batch costs the calls of one episode.
The modes of `meta_gradient` take the stack as they take an episode: the sum over episodes has, as its derivative with
respect to the leaf of episode e, that episode's own. Convolutions become grouped ones, so that large networks gain
nothing on a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import vmap

from core.bayes.gaussian import Tree, branch, graft
from core.meta.checks import Examples
from core.meta.inner_loop import BayesianEpisode


@dataclass(frozen=True)
class StackedEpisodes:
    """E episodes that differ in their data and noise alone, as one two-level problem whose losses are sums over them.

    `tensors` holds what differs, stacked: `support/x`, `support/y`, `support/mask`, likewise `query/*`, and
    `draw NAME/*`, the noise of the draw NAME. The noise is what each episode alone would draw, bit for bit.
    """

    one: BayesianEpisode
    tensors: Tree

    @classmethod
    def of(cls, episodes: Sequence[BayesianEpisode], theta: Tree) -> "StackedEpisodes":
        """Stack episodes whose tensors agree in shape; all of them have masks, or none has."""
        packed = [tensors_of(episode, theta) for episode in episodes]
        return cls(episodes[0], {name: torch.stack([tree[name] for tree in packed]) for name in packed[0]})

    @property
    def count(self) -> int:
        """E."""
        return len(self.tensors["support/x"])

    @property
    def steps(self) -> int:
        """M."""
        return self.one.steps

    @property
    def outer_weights(self) -> Mapping[int, float]:
        """m -> c_m."""
        return self.one.outer_weights

    @property
    def update_is_nonlinear(self) -> bool:
        """Whether clipping, episode by episode, makes the update nonlinear."""
        return self.one.update_is_nonlinear

    def start(self, theta: Tree) -> Tree:
        """lambda_0 (E, ...): the same for all."""
        return {name: leaf.expand(self.count, *leaf.shape).clone() for name, leaf in self.one.start(theta).items()}

    def read_by_data(self, theta: Tree) -> Tree:
        """As for one episode."""
        return self.one.read_by_data(theta)

    def data(self, adapted: Tree, theta: Tree, m: int) -> Tensor:
        """The sum of D_m over the episodes."""
        return vmap(lambda a, tensors: with_tensors(self.one, tensors).data(a, theta, m))(adapted, self.tensors).sum()

    def update(self, adapted: Tree, gradient: Tree, theta: Tree, m: int) -> Tree:
        """U_m of each episode."""
        return vmap(lambda a, g: self.one.update(a, g, theta, m))(adapted, gradient)

    def outer(self, adapted: Tree, theta: Tree, m: int) -> tuple[Tensor, Tree]:
        """The sums of Q_m and of its parts over the episodes."""
        outer = vmap(lambda a, tensors: with_tensors(self.one, tensors).outer(a, theta, m))
        loss, parts = outer(adapted, self.tensors)
        return loss.sum(), {name: part.sum() for name, part in parts.items()}


def tensors_of(episode: BayesianEpisode, theta: Tree) -> Tree:
    """Every tensor of an episode under a name of its own, its noise included; `with_tensors` is the inverse."""
    tensors: Tree = {}
    for part, examples in (("support", episode.support), ("query", episode.query)):
        if examples is not None:
            tensors |= graft(part, {"x": examples.x, "y": examples.y})
            if examples.mask is not None:
                tensors[f"{part}/mask"] = examples.mask
    for draw, noise in episode.all_noise(theta).items():
        tensors |= graft(f"draw {draw}", noise)
    return tensors


def with_tensors(episode: BayesianEpisode, tensors: Tree) -> BayesianEpisode:
    """The episode with other data and noise: a function of tensors alone, which can be mapped, recorded or compiled."""
    draws = {name.partition("/")[0] for name in tensors if name.startswith("draw ")}
    noise = {draw.removeprefix("draw "): branch(tensors, draw) for draw in draws}
    sets = {part: branch(tensors, part) for part in ("support", "query")}
    support, query = (Examples(s["x"], s["y"], s.get("mask")) if s else None for s in sets.values())
    assert support is not None
    return replace(episode, support=support, query=query, noise=noise)
