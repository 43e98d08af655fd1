"""The wheel bandit of Riquelme et al. (ICLR 2018), as in the ABML paper: regret in percent of a uniform player's.

    python tests/benchmarks/wheel_bandit.py [--learners abml maml] [--seeds 3] [--trials 3] [--pulls 2000]

A context is uniform in the unit disc. Arm 0 pays 1.2 and the others 1.0 on average, but beyond the radius delta the arm
of the context's quadrant pays 50; the std of every reward is 0.01. A learner (an MLP, 2 layers of 100) is trained on
wheels of random delta, then plays wheels of unknown delta: it adapts to its own history now and then (after each pull
at first) and takes the best arm under one draw of the weights for each pull (Thompson sampling; `maml` has no draws and
is greedy, as in the paper).

From the paper: the wheels and their rewards, delta ~ U(0, 1) in training, (context, random arm, reward) queries,
local reparametrisation of the dense layers, the measure, n = 2,000 pulls. What it leaves open is ours: the prior mean
starts from pooled steps on all wheels (MOPED); supports of 1 to 256 pulls whose arms are partly random and partly best
under a right or a wrong delta, as in a player's history; the network predicts the logarithm of the reward, in which
both steps, 1.0 to 1.2 and to 50, are of a size that it can learn. An arm is then tried where its chance of paying 50
is above 5 %. The last row says what that alone is worth: always the arm of the quadrant, without learning anything.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.bayes.gaussian import Tree, branch
from core.bayes.likelihood import Predictive
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta.checks import Examples
from core.meta.inner_loop import BayesianEpisode, seeded
from core.meta.learner import Learner
from core.meta.meta_gradient import run_inner_loop
from core.meta.stacked import StackedEpisodes
from core.meta.state import LearnerState

DELTAS = (0.5, 0.7, 0.9, 0.95, 0.99)
PUBLISHED = {  # Ravi & Beatson (2019), table 1: mean over 50 trials, by the number of pulls
    "abml": {2_000: (1.36, 1.59, 3.51, 7.21, 35.04), 80_000: (0.22, 0.29, 0.66, 1.03, 4.66)},
    "maml": {2_000: (1.79, 2.10, 6.08, 16.80, 55.53), 80_000: (0.20, 0.34, 1.02, 2.10, 9.81)},
}
ARMS, REWARD_STD, QUERY = 5, 0.01, 128
SUPPORT, HISTORY = 256, 512  # most pulls of a support in training, and of a history that is adapted to
CPU = torch.device("cpu")


class ArmRewards:
    """Gaussian log rewards with one learned std; only the pulled arm's is observed."""

    score = "nll"

    def initial(self) -> Tree:
        return {"log_std": torch.tensor(0.0)}

    def loss(self, prediction: Tensor, target: Tensor, mask: Tensor | None, parameters: Tree) -> Tensor:
        log_std = parameters["log_std"]
        error = torch.where(mask, target - prediction, 0.0) * torch.exp(-log_std)
        return (mask * (0.5 * error.square() + log_std + 0.5 * math.log(2 * math.pi))).sum()

    def predictive(self, prediction: Tensor, parameters: Tree) -> Predictive:
        return Predictive(prediction, parameters["log_std"].exp())


@dataclass(frozen=True)
class Wheels:
    """E wheels, each with its delta (E,)."""

    deltas: Tensor

    def contexts(self, count: int, g: torch.Generator) -> Tensor:
        """(E, count, 2)."""
        radius = torch.rand(len(self.deltas), count, generator=g).sqrt()
        angle = 2 * math.pi * torch.rand(radius.shape, generator=g)
        return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)

    def mean_rewards(self, x: Tensor) -> Tensor:
        """(E, N, arms)."""
        usual = torch.tensor([1.2] + [1.0] * (ARMS - 1))
        best_far = nn.functional.one_hot(quadrant_arm(x), ARMS).bool()
        return torch.where((x.norm(dim=-1) > self.deltas[:, None])[..., None] & best_far, 50.0, usual)

    def best_arms(self, x: Tensor, believed: Tensor) -> Tensor:
        """(E, N): the best arms if delta were as `believed`, (E, N)."""
        return torch.where(x.norm(dim=-1) > believed, quadrant_arm(x), 0)

    def pulls(self, count: int, random_share: Tensor, g: torch.Generator) -> SimpleNamespace:
        """x, y (log rewards) and mask: a share (E,) of arms random, half of the others best, half by another delta."""
        x = self.contexts(count, g)
        arms = torch.randint(ARMS, x.shape[:2], generator=g)
        wrong = torch.rand(arms.shape, generator=g) < 0.5
        believed = torch.where(wrong, torch.rand(arms.shape, generator=g), self.deltas[:, None])
        chosen = torch.rand(arms.shape, generator=g) >= random_share[:, None]
        arms = torch.where(chosen, self.best_arms(x, believed), arms)
        return SimpleNamespace(x=x, y=self.log_rewards(x, g), mask=nn.functional.one_hot(arms, ARMS).bool())

    def log_rewards(self, x: Tensor, g: torch.Generator) -> Tensor:
        means = self.mean_rewards(x)
        return torch.log(means + REWARD_STD * torch.randn(means.shape, generator=g))


def quadrant_arm(x: Tensor) -> Tensor:
    return 1 + 2 * (x[..., 0] < 0) + (x[..., 1] < 0)


def learn(learner: Learner, pooled: Learner, arguments: argparse.Namespace, seed: int) -> LearnerState:
    """Pooled steps on pulls of many wheels, then meta-steps."""
    state = pooled.init_state()
    for step in range(arguments.pooled_steps):
        g = seeded(CPU, seed, "pooled", step)
        sets = Wheels(torch.rand(32, generator=g)).pulls(64, torch.ones(32), g)
        one = SimpleNamespace(**{part: leaf.flatten(0, 1)[None] for part, leaf in vars(sets).items()})
        none = SimpleNamespace(**{part: leaf[:, :0] for part, leaf in vars(one).items()})
        gradient, _ = pooled.gradient(state, SimpleNamespace(support=none, query=one, ids=(step,)), seed=seed)
        state = pooled.apply(state, gradient, learning_rate=0.01 * cosine(step, arguments.pooled_steps))
    state = learner.init_state(state)
    wheels = learner.config.meta_batch
    for step in range(arguments.meta_steps):
        g = seeded(CPU, seed, "meta", step)
        count = 1 + int(SUPPORT * torch.rand(1, generator=g) ** 2)
        some = Wheels(torch.rand(wheels, generator=g))
        support = some.pulls(count, torch.rand(wheels, generator=g), g)
        query = some.pulls(QUERY, torch.ones(wheels), g)
        batch = SimpleNamespace(support=support, query=query, ids=range(wheels))
        gradient, _ = learner.gradient(state, batch, seed=seed)
        mean = {name: leaf / wheels for name, leaf in gradient.items()}
        rate = learner.config.learning_rate * cosine(step, arguments.meta_steps)
        state = learner.apply(state, mean, learning_rate=rate)
    return state


def cosine(step: int, steps: int) -> float:
    """A step size that rises over 50 steps and falls to 0."""
    return min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


def play(
    learner: Learner, state: LearnerState, inner: InnerConfig, arguments: argparse.Namespace, seed: int
) -> np.ndarray:
    """Regret (trial, delta) in percent of what a uniform player loses in expectation; all wheels turn in step."""
    g = seeded(CPU, seed, "play")
    wheels = Wheels(torch.tensor(DELTAS).repeat(arguments.trials))
    x = wheels.contexts(arguments.pulls, g)
    rewards = wheels.log_rewards(x, g)
    arms, start = torch.zeros(x.shape[:2], dtype=torch.long), 0
    while start < arguments.pulls:
        stop = min(start + min(arguments.every, 1 + start // 10), arguments.pulls)
        kept = torch.randperm(start, generator=g)[:HISTORY]
        mask = nn.functional.one_hot(arms[:, kept], ARMS).bool()
        histories = SimpleNamespace(x=x[:, kept], y=rewards[:, kept], mask=mask)
        posterior = adapted(learner, state, inner, histories, start)
        arms[:, start:stop] = draw_rewards(learner, posterior, x[:, start:stop], g).argmax(-1)
        start = stop
    means = wheels.mean_rewards(x)
    best = means.max(-1).values
    regret = (best - means.gather(-1, arms[..., None])[..., 0]).sum(1)
    return (100 * regret / (best - means.mean(-1)).sum(1)).reshape(arguments.trials, len(DELTAS)).numpy()


def adapted(learner: Learner, state: LearnerState, inner: InnerConfig, histories: SimpleNamespace, seed: int) -> Tree:
    """The posteriors of all wheels, each leaf (E, ...)."""
    episodes = [
        BayesianEpisode(
            Examples(histories.x[e], histories.y[e], histories.mask[e]),
            None,
            learner.perturbation,
            learner.likelihood,
            inner,
            seed=f"{seed} {e}",
        )
        for e in range(len(histories.x))
    ]
    return run_inner_loop(StackedEpisodes.of(episodes, state.theta), state.theta)[0]


@torch.no_grad()
def draw_rewards(learner: Learner, posterior: Tree, x: Tensor, g: torch.Generator) -> Tensor:
    """Log rewards (E, N, arms), each context under a weight draw of its own.

    For one input alone a dense layer's outputs are independent Gaussians: local reparametrisation is a weight draw.
    """
    mean, log_std = branch(posterior, "mean") | branch(posterior, "point"), branch(posterior, "log_std")
    one = [{name: leaf[0] for name, leaf in tree.items()} for tree in (mean, log_std)]
    noise = learner.perturbation.draw(*one, x[0], g, len(x))  # (E, ...): what would be one wheel's samples
    noise = {name: leaf[:, None] for name, leaf in noise.items()}
    return vmap(learner.perturbation.outputs)(mean, log_std, noise, x)[:, 0]


def build(kind: str, seed: int, arguments: argparse.Namespace) -> Learner:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, ARMS))
    inner = InnerConfig(
        steps=arguments.inner_steps,
        rate=arguments.rate,
        kl_weight=arguments.inner_kl_weight,
        perturbation="local",
        clip=10.0,
    )
    config = TrainConfig(
        learner=kind,
        inner=inner,
        outer=OuterConfig(clip=10.0),
        meta_batch=arguments.meta_batch,
        learning_rate=arguments.learning_rate,
        initial_log_std=arguments.initial_log_std,
        gradient="unrolled",
        execution="stacked",
    )
    return Learner(network, ArmRewards(), config)


def always_the_quadrant(delta: float) -> float:
    """Regret in percent of a player who never takes arm 0: 0.2 inside delta, where a uniform one loses 0.16."""
    inside = delta**2
    return 100 * 0.2 * inside / (0.16 * inside + (50 - (50 + 1.2 + 3) / ARMS) * (1 - inside))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", default=["abml", "maml"])
    parser.add_argument("--seeds", type=int, default=3, help="runs, each with its own training and its own wheels")
    parser.add_argument("--trials", type=int, default=3, help="wheels of each delta that a run plays")
    parser.add_argument("--pulls", type=int, default=2000)
    parser.add_argument("--every", type=int, default=40, help="most pulls between adaptations")
    parser.add_argument("--pooled-steps", type=int, default=1500)
    parser.add_argument("--meta-steps", type=int, default=300)
    parser.add_argument("--meta-batch", type=int, default=8)
    parser.add_argument("--inner-steps", type=int, default=3)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--inner-kl-weight", type=float, default=0.01)
    parser.add_argument("--initial-log-std", type=float, default=-5)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':>24} " + " ".join(f"{'delta ' + str(d):>14}" for d in DELTAS))
    for kind in arguments.learners:
        start, found = time.process_time(), {f"{kind} at M = 0": [], kind: []}
        for seed in range(arguments.seeds):
            learner, pooled = build(kind, seed, arguments), build("pooled", seed, arguments)
            state = learn(learner, pooled, arguments, seed)
            for name, steps in zip(found, (0, learner.inner.steps), strict=True):
                inner = learner.inner.model_copy(update={"steps": steps})
                found[name].append(play(learner, state, inner, arguments, seed).mean(0))
                row = " ".join(f"{v:>14.2f}" for v in found[name][-1])
                print(f"{f'{name}, seed {seed}':>24} {row}  ({time.process_time() - start:.0f} CPU s)", flush=True)
        for name, rows in found.items():
            cells = " ".join(f"{m:>7.2f} ± {s:>4.2f}" for m, s in zip(np.mean(rows, 0), np.std(rows, 0), strict=True))
            print(f"{name + ', ± seeds':>24} {cells}")
        if row := PUBLISHED[kind].get(arguments.pulls):
            print(f"{kind + ', published':>24} " + " ".join(f"{v:>14.2f}" for v in row))
    print(f"{'always the quadrant':>24} " + " ".join(f"{always_the_quadrant(d):>14.2f}" for d in DELTAS))


if __name__ == "__main__":
    main()
