"""The archive: calibrated frames on a regular time axis, in one crash-safe Zarr store that plain xarray opens."""

from core.archive.archive import Archive
from core.archive.days import Stored
from core.archive.inspection import Inspection, inspect, quick_look
from core.archive.layout import SERVED, Status
from core.archive.validation import Validation, repair, validate

__all__ = [
    "SERVED",
    "Archive",
    "Inspection",
    "Status",
    "Stored",
    "Validation",
    "inspect",
    "quick_look",
    "repair",
    "validate",
]
