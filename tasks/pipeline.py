"""What a whole pipeline left, on its own page: the scorecard, its first pictures, and where everything is."""

from prefect.artifacts import create_markdown_artifact

from core.config import PipelineConfig
from core.verify.folder import Scorecard
from tasks.pictures import publish_file
from tasks.records import tracking_folder
from tasks.tracking import run_page

PICTURES = 2


def publish_pipeline(config: PipelineConfig, scorecard: Scorecard) -> None:
    """Put the results of the stages on the run that chained them."""
    places = {
        "archive": config.ingest.archive,
        "episodes": config.episodes.store,
        "checkpoints": config.train.run,
        "scorecard": scorecard.url,
        "training in MLflow": run_page(tracking_folder(config.train.run)),
        "evaluation in MLflow": run_page(scorecard.folder / "tracking"),
    }
    table = "\n".join(f"| {name} | {place} |" for name, place in places.items())
    create_markdown_artifact(f"| what | where |\n|---|---|\n{table}\n\n{scorecard.markdown}\n", key="pipeline")
    for figure in scorecard.figures[:PICTURES]:
        publish_file(f"pipeline-{figure.stem}".replace("_", "-"), figure, figure.stem)
