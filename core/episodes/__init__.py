"""Archive to episodes: contexts, splits without leaks, the store; and the loader, apart as it needs torch."""

from core.episodes.builder import StoreSummary, build
from core.episodes.check import Inspection, Validation, inspect, rebuild, validate
from core.episodes.pictures import draw
from core.episodes.store import EpisodeStore

__all__ = [
    "EpisodeStore",
    "Inspection",
    "StoreSummary",
    "Validation",
    "build",
    "draw",
    "inspect",
    "rebuild",
    "validate",
]
