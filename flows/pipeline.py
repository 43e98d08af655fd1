"""From satellite granules to a scorecard."""

from prefect import flow

from core.config import PipelineConfig
from core.verify.folder import Scorecard
from flows.episodes import episodes
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.train import train
from tasks.pipeline import publish_pipeline


@flow(name="pipeline", flow_run_name="pipeline {config.name}")
def pipeline(config: PipelineConfig) -> Scorecard:
    """Ingest, build episodes, meta-train and evaluate; each stage skips what is already done and valid.

    Args:
        config: All four stages of one named run, and where MLflow remembers it.
    """
    ingest(config.ingest)
    episodes(config.episodes)
    train(config.train, config.tracking)
    scorecard = evaluate(config.evaluate, config.tracking)
    publish_pipeline(config, scorecard)
    return scorecard
