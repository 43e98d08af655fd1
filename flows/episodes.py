"""Archive to episodes."""

from prefect import flow

from core.config import EpisodesConfig
from core.episodes import StoreSummary
from tasks import episodes as tasks


@flow(name="episodes", flow_run_name="episodes k={config.input_frames} L={config.target_frames}")
def episodes(config: EpisodesConfig) -> StoreSummary:
    """Cut an archive into few-shot episodes, leak-free between training, validation and test.

    Args:
        config: Which archive, the shape of a window, the counts and the splits.
    """
    return tasks.episodes(config)
