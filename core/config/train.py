"""Episodes to prior: the network, the inner loop, the outer loop."""

from typing import Annotated, Literal

from pydantic import Field

from core.config.base import Stage
from core.config.places import Filled

ExtraInput = Literal["time", "sun", "location"]


class NetworkConfig(Stage):
    """The U-Net."""

    width: int = Field(32, ge=4, le=512, description="Channels of the finest level.")
    depth: int = Field(3, ge=1, le=6, description="Number of times the resolution is halved.")
    max_width: int = Field(128, ge=4, le=2048, description="Channels double from level to level up to this many.")
    patch: int = Field(
        1, ge=1, le=8, description="Side in pixels of the squares that the first layer folds into planes."
    )
    extra_inputs: list[ExtraInput] = Field(
        [],
        description="Planes that the network sees beside the frames: the season and the solar hour, the sun's height, "
        "the place on Earth.",
    )


class InnerConfig(Stage):
    """The inner loop: support to posterior."""

    steps: int = Field(3, ge=0, le=100, description="Gradient steps M.")
    steps_to_try: list[Annotated[int, Field(ge=1, le=100)]] = Field(
        [],
        description="Numbers of steps beside M that validation tries: forecasts take the one of least CRPS.",
    )
    rate: float = Field(0.01, gt=0, le=10, description="Step size alpha, or its first value where rates are learned.")
    learn_rates: Literal["no", "layer", "layer_step", "entry"] = Field(
        "layer_step", description="Learn the step sizes: not at all, per layer, per layer and step, or per weight."
    )
    precondition: float = Field(
        0.0,
        ge=0,
        description="Mean square of the pooled steps' gradient that halves a weight's first rate; 0: all at `rate`.",
    )
    samples: int = Field(1, ge=1, le=64, description="Weight samples per inner step.")
    perturbation: Literal["weight", "flipout", "local"] = Field(
        "weight",
        description="How training draws weights: once a batch, by Flipout, or locally (dense layers' outputs).",
    )
    antithetic: bool = Field(False, description="Draw weight samples in pairs (+eps, -eps), inside and outside.")
    batch_samples: bool = Field(
        False, description="Run weight samples in one vmap, not one by one: fewer and larger calls, for a GPU."
    )
    kl_weight: float = Field(1.0, ge=0, le=1, description="Weight of the inner KL; 1 is the exact ELBO.")
    clip: float = Field(0.0, ge=0, description="Largest norm of an inner gradient; 0 does not clip.")
    adapt_deterministic: bool = Field(
        True, description="Adapt the parameters that have no distribution (norm affines) too, as point values."
    )


class OuterConfig(Stage):
    """The outer loop's less common choices."""

    objective: Literal["query", "support_and_query"] = Field(
        "query", description="Sets in the outer likelihood: the query alone, or both as in Ravi & Beatson."
    )
    hyper_prior: bool = Field(False, description="Add the paper's hyper-prior on theta: N(0, 1) and Gamma(1, 0.01).")
    first_order_steps: int = Field(0, ge=0, description="Meta-steps with first-order gradients before exact ones.")
    multi_step_steps: int = Field(
        0, ge=0, description="Meta-steps over which a loss on every inner step fades to the last step alone."
    )
    scalar_rate: float = Field(
        10.0, gt=0, description="Step size of the noise and of the log rates, relative to learning_rate."
    )
    clip: float = Field(0.0, ge=0, description="Largest norm of the meta-gradient; 0 does not clip.")


class TrainConfig(Stage):
    """Episodes to prior."""

    episodes: Filled = Field("", description="URL of the episode store; empty: under the pipeline's root.")
    run: Filled = Field("", description="Directory of the checkpoints; empty: under the pipeline's root.")
    learner: Literal["abml", "maml", "pooled"] = Field("abml", description="The way to train.")
    network: NetworkConfig = NetworkConfig()
    likelihood: Literal["gaussian", "gaussian_scale"] = Field(
        "gaussian", description="Noise std: one per lead time, or that times a scale per pixel from the network."
    )
    score: Literal["nll", "crps"] = Field(
        "nll", description="What the data term sums per pixel: -log density (the exact ELBO) or the density's CRPS."
    )
    score_weight: float = Field(
        1.0, gt=0, le=1000, description="Weight of the CRPS against the KL: they have other units; nll needs none."
    )
    inner: InnerConfig = InnerConfig()
    outer: OuterConfig = OuterConfig()
    fork: str = Field(
        "",
        description="What this run starts from: another's directory (its best checkpoint), one checkpoint's, or a "
        "model or run in MLflow (models:/NAME@ALIAS, runs:/ID, runs:/ID/checkpoints/step_...); empty: afresh.",
    )
    pretrain_steps: int = Field(
        0, ge=0, description="Pooled steps before the meta-steps: they make the first mean of the prior (MOPED)."
    )
    steps: int = Field(1000, ge=1, description="Meta-steps.")
    budget_minutes: float = Field(60.0, gt=0, description="Stop cleanly after this many minutes of training.")
    fit_budget: bool = Field(
        False, description="Shorten both phases alike where a first trial says that the budget would cut them off."
    )
    meta_batch: int = Field(4, ge=1, le=1024, description="Episodes of one meta-step.")
    pretrain_batch: int = Field(8, ge=1, le=1024, description="Episodes of one pooled step.")
    pretrain_windows: int = Field(
        2, ge=1, le=128, description="Windows that a pooled step takes from each of its episodes, drawn anew each time."
    )
    augment: bool = Field(True, description="Turn and flip training episodes, all windows of one alike.")
    pretrain_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Pooled steps see this earliest part of the training time, meta-steps the rest; 1: both see all.",
    )
    pretrain_rate: float = Field(2e-3, gt=0, le=1, description="Outer step size of the pooled steps (Adam).")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Outer step size beta (Adam).")
    warmup_steps: int = Field(50, ge=0, description="Steps over which either step size rises linearly from 0.")
    decay: Literal["cosine", "none"] = Field("cosine", description="How either step size falls over its steps.")
    samples: int = Field(1, ge=1, le=64, description="Weight samples of the outer expectation.")
    kl_weight: float = Field(1.0, ge=0, le=1, description="Weight of the outer KL; 1 is the exact ELBO.")
    initial_log_std: float = Field(-4.5, ge=-15, le=2, description="Natural log of the prior's first std.")
    gradient: Literal["auto", "unrolled", "checkpointed", "mixed", "first_order"] = Field(
        "auto", description="How to differentiate through the inner loop; all but first_order are exact."
    )
    validate_every: int = Field(100, ge=1, description="Steps between validations and checkpoints.")
    validation_episodes: int = Field(32, ge=1, description="Validation episodes scored each time, the same each time.")
    validation_members: int = Field(4, ge=1, le=100, description="Weight samples of a validation forecast.")
    calibrate: bool = Field(
        True, description="Forecast with a std that validation corrects, so that 90 % intervals cover 90 %."
    )
    patience: int = Field(0, ge=0, description="Validations without a better CRPS before stopping early; 0: never.")
    averaging: float = Field(
        0.0, ge=0, lt=1, description="Decay a step of an average of the prior that is validated and used; 0: none."
    )
    keep: int = Field(2, ge=1, le=1000, description="Newest checkpoints to keep, beside the best.")
    workers: int = Field(
        1, ge=1, le=64, description="Episodes differentiated at a time by threads of a rank, each with torch's threads."
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of torch in each worker; 0: as torch chooses.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto: a GPU if there is one.")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="Arithmetic of the network; tf32 needs a GPU. Parameters and losses stay in float32."
    )
    execution: Literal["eager", "stacked", "cuda_graph", "compile"] = Field(
        "eager",
        description="Run a meta-gradient operator by operator; for all episodes of a meta-batch at once (quicker with "
        "small dense networks); as one recorded CUDA graph (GPU); or by torch.compile.",
    )
    seed: int = Field(0, ge=0, description="Seed of weights, noise and episode order.")
