"""The archive: calibrated frames on a regular time axis, in one crash-safe Zarr store that plain xarray opens."""

from core.archive.archive import Archive
from core.archive.days import Stored
from core.archive.layout import Status

__all__ = ["Archive", "Status", "Stored"]
