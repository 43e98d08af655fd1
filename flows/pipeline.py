"""From satellite granules to a scorecard."""

from prefect import flow

from core.config import PipelineConfig
from core.verify.evaluate import Scorecard
from flows.episodes import episodes
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.train import train


@flow(name="pipeline", flow_run_name="pipeline {config.name}")
def pipeline(config: PipelineConfig) -> Scorecard:
    """Ingest, build episodes, meta-train and evaluate; each stage skips what is already done and valid.

    Args:
        config: All four stages of one named run, and where MLflow remembers it.
    """
    ingest(config.ingest)
    episodes(config.episodes)
    train(config.train, config.tracking)
    return evaluate(config.evaluate, config.tracking)
