"""Physical values to 16-bit codes and back."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.archive.shard import MISSING, Codes
from core.satellite.granule import PHYSICAL_RANGE, Kind


@dataclass(frozen=True)
class Packing:
    """How a kind of image is stored: value = code * scale + offset."""

    scale: float
    offset: float
    standard_name: str
    long_name: str


PACKINGS: Mapping[Kind, Packing] = {
    "brightness_temperature": Packing(0.01, 0.0, "toa_brightness_temperature", "Brightness temperature"),
    "reflectance": Packing(0.01, -10.0, "toa_bidirectional_reflectance", "Reflectance factor"),
    "display_count": Packing(1.0, 0.0, "", "Display count (uncalibrated brightness)"),
    "solar_elevation": Packing(0.01, -90.0, "solar_elevation_angle", "Solar elevation"),
}


def pack(values: NDArray[np.float32], kind: Kind) -> tuple[Codes, int]:
    """Codes of values, and how many were made missing because they lie outside the physical range."""
    packing, (low, high) = PACKINGS[kind], PHYSICAL_RANGE[kind]
    with np.errstate(invalid="ignore"):
        inside = (values >= low) & (values <= high)
        codes = np.rint((values - np.float32(packing.offset)) * np.float32(1 / packing.scale))
    lost = int(values.size - inside.sum() - np.isnan(values).sum())
    return np.where(inside, codes, MISSING).astype(np.uint16), lost


def unpack(codes: Codes, kind: Kind) -> NDArray[np.float32]:
    """Values of codes, NaN where missing."""
    packing = PACKINGS[kind]
    values = codes.astype(np.float32) * np.float32(packing.scale) + np.float32(packing.offset)
    values[codes == MISSING] = np.nan
    return values
