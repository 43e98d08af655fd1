"""What a training run tells MLflow beyond its metrics: its data, its checkpoints, and the model with its card."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from core.bayes.gaussian import branch
from core.config import TrackingConfig, TrainConfig
from core.errors import FewcastError
from core.meta import checkpoint
from core.model import Model
from core.training.run import episodes_of
from core.training.train import TrainSummary
from core.training.validation import scored_on
from tasks.tracking import BEST, TrackedRun, is_in_mlflow, read_delivered, registered_run, training_run

CHECKPOINTS = "checkpoints"
"""Where they lie among the artifacts of a run in MLflow, each in a folder named by its step."""


def tracking_folder(run: str) -> Path:
    """Where a training run keeps its own record for MLflow, and the id of its MLflow run."""
    return Path(run) / "tracking"


def origin(config: TrainConfig, tracking: TrackingConfig) -> dict[str, str]:
    """Tags of a fork: from which run, here and in MLflow.

    They are told before its first checkpoint alone, since later a name may stand for something else.
    """
    if not config.fork or checkpoint.steps(Path(config.run)):
        return {}
    return {"fewcast.forked_from": f"{config.fork} {_run_id(config.fork, tracking)}".strip()}


def _run_id(fork: str, tracking: TrackingConfig) -> str:
    """The MLflow run that a fork starts from; empty where none is known, or the server that knows is away."""
    if is_in_mlflow(fork):
        return training_run(fork, tracking)
    run = Path(fork).parent if (Path(fork) / checkpoint.META).is_file() else Path(fork)
    if run_id := read_delivered(tracking_folder(str(run))).run_id:
        return run_id
    with suppress(FewcastError):  # where there is no checkpoint, training itself says so
        return registered_run(Model.load(fork).version, tracking)
    return ""


def tell_data(tracked: TrackedRun, config: TrainConfig) -> None:
    """The run's episodes and the frames of the archive that they were cut from, each with its digest."""
    store = episodes_of(config)
    catalog = store.catalog
    frames = hashlib.sha256("".join(map(str, catalog["frames_digest"])).encode()).hexdigest()
    counts = {str(split): int(count) for split, count in catalog["split"].value_counts().items()}
    tracked.dataset("episodes", store.digest, config.episodes, json.dumps({"episodes": counts}))
    tracked.dataset(
        "archive", frames, str(store.attributes.get("archive", "")), json.dumps({"frames": "of these episodes"})
    )


def tell_checkpoints(tracked: TrackedRun, config: TrainConfig, *, ended: bool) -> None:
    """The best checkpoint so far, all that are kept where training has `ended`; and of a fork, where it started.

    The best is the one that the tag `BEST` names.
    """
    run = Path(config.run)
    with suppress(FewcastError):  # where no checkpoint is good, training itself has said so
        found = checkpoint.load_latest(run)
        if found is None:
            return
        if origin := found.meta["progress"].get("forked_from"):
            tracked.tag({"fewcast.forked_from_checkpoint": origin})
        best = found.meta["best_step"]
        for step in checkpoint.steps(run) if ended else [best] if best is not None else []:
            with suppress(FewcastError):  # one that is damaged is passed over, as by training
                kept = checkpoint.load(run, step)
                tracked.artifact(kept.path, CHECKPOINTS, digest=kept.digest)
                if step == best:
                    tracked.tag({BEST: f"{CHECKPOINTS}/{kept.path.name}"})


def tell_result(tracked: TrackedRun, config: TrainConfig, summary: TrainSummary) -> None:
    """Once training is over, the model as the newest candidate; `FewcastError` where its checkpoint is not good."""
    if summary.best_step is None or not summary.finished:
        return
    model = Model.load(summary.run)
    if model.step != summary.best_step:
        raise FewcastError(
            f"the best checkpoint of the run {summary.run}, of step {summary.best_step}, cannot be registered",
            found="it truncated, altered or gone",
            mend="restore that folder and run the same command again, or train anew in another train.run",
        )
    folder = tracking_folder(summary.run) / f"model-{model.version}"
    if not folder.exists():
        # Here and not above: mlflow takes seconds to import.
        from tasks.tracking.model import save

        text = card(model, config, summary)
        try:
            save(model, folder, text)
        except OSError as error:
            raise FewcastError(
                f"training is done and safe, but its model cannot be written to {folder}",
                found=error.strerror or str(error),
                mend="free some space and run the same command again: it only registers the model",
            ) from error
        tracked.tag({"mlflow.note.content": text})
    tags = {"checkpoint": model.version, "episodes": model.episodes_digest, "learner": model.config.learner}
    tags["validation_crps"] = f"{summary.best['crps']:.6g}"
    tags["scored_on"] = scored_on(model.config, episodes_of(config))
    tracked.model(folder, tags)


def card(model: Model, config: TrainConfig, summary: TrainSummary) -> str:
    """The model card, from the run itself."""
    spec, network = model.spec, config.network
    best = {name: value for name, value in summary.best.items() if not name.startswith("prior_")}
    scores = "\n".join(
        f"| {name} | {value:.4g} | {_number(summary.best.get(f'prior_{name}'))} |" for name, value in best.items()
    )
    weights = sum(leaf.numel() for leaf in branch(model.state.theta, "mean").values())
    return f"""# {model.config.learner} nowcaster, version {model.version}

Forecasts {spec.target_frames} frames ({spec.lead_minutes[0]} to {spec.lead_minutes[-1]} minutes ahead) of {", ".join(spec.channels)} from
{spec.input_frames} frames, on tiles of {spec.tile_pixels} pixels, after adapting to a few windows of the same place (M = {model.inner_steps}).
Input and output are standardised: (value - mean) / std with mean {_numbers(spec.mean)} and std {_numbers(spec.std)}.

**Network.** A U-Net of {weights:,} weights (width {network.width}, depth {network.depth}), likelihood `{config.likelihood}`, data term `{config.score}`.

**Data.** Episodes `{config.episodes}`, digest `{model.episodes_digest}`.

**Training.** {summary.step} steps, ended by {summary.ended}; the checkpoint of step {model.step}, best in CRPS on held-out episodes.

**Validation** (standardised units):

| metric | adapted | M = 0 |
|---|---:|---:|
{scores}

**Use.** For the channels, cadence and resolution that it was trained on. Its spread is calibrated on validation episodes of the
same archive; on another satellite or region, look at the scorecard there before trusting it. It sees no physics: what has not
begun to show in the input frames (new convection above all) it can only give as spread.
"""  # noqa: E501


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.5g}" for value in values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
