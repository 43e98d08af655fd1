"""Granules to archive: what to look at, and looking at it."""

from core.ingest.run import IngestSummary, ingest

__all__ = ["IngestSummary", "ingest"]
