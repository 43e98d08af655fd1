"""A small training for tests: its settings, its bits, and who listens to it."""

from pathlib import Path

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.meta import checkpoint
from core.report import Silent


class Recorder(Silent):
    def __init__(self):
        self.values, self.messages, self.figures, self.done = {}, [], [], []

    def metrics(self, values, step):
        self.values.setdefault(step, {}).update(values)

    def message(self, text):
        self.messages.append(text)

    def figure(self, name, figure, step):
        self.figures.append((name, step))

    def progress(self, done, total, note=""):
        self.done.append((done, total))


def configured(store: str, folder: Path) -> TrainConfig:
    return TrainConfig(
        episodes=store,
        run=str(folder / "run"),
        network=NetworkConfig(width=4, depth=1),
        inner=InnerConfig(steps=2, rate=0.1),
        pretrain_steps=4,
        steps=8,
        meta_batch=2,
        warmup_steps=2,
        validate_every=5,
        validation_episodes=3,
        validation_members=2,
        averaging=0.9,
        device="cpu",
    )


def variant(config: TrainConfig, **changes) -> TrainConfig:
    return TrainConfig.model_validate(config.model_dump() | changes)


def bits(run: str | Path) -> dict[str, bytes]:
    found = checkpoint.load_latest(Path(run))
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()}


def stop_after(calls: int):
    count = iter(range(10_000))
    return lambda: next(count) >= calls
