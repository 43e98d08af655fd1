"""Colour maps whose lightness only grows, so that they order the same way in colour, in grey print and to any eye."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap

# Warm ground dark to cloud grey, then an enhancement of the coldest tops: the habit of infrared pictures, but with
# lightness rising throughout, where the usual rainbow enhancement folds back.
_CLOUD = LinearSegmentedColormap.from_list(
    "fewcast_cloud",
    [
        (0.00, "#0d0f14"),
        (0.62, "#8f9499"),
        (0.72, "#6fa3d8"),
        (0.82, "#5cc4c4"),
        (0.91, "#b9dd6e"),
        (1.00, "#fff8c4"),
    ],
)
# Sixteen that stay apart for most eyes in this order; markers and dashes tell them apart in grey.
_COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#222222", "#999999",
    "#bb5500", "#004488", "#997700", "#99ddaa", "#882255", "#44aa99", "#7e57c2", "#dd8899",
)  # fmt: skip
_MARKERS = "osD^vP*X<>phd8H|"
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class LineStyle:
    """How one row's line looks, in every figure alike."""

    colour: str
    marker: str
    dashes: str


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """A style for each of some names, by their order; the first sixteen differ in colour and in marker."""
    return {
        name: LineStyle(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


@dataclass(frozen=True)
class ImageStyle:
    """How one kind of channel is drawn."""

    colours: Colormap
    label: str


def image_style(kind: str) -> ImageStyle:
    """Cold is bright for brightness temperature; counts and reflectance are bright where they are high."""
    if kind == "brightness_temperature":
        return ImageStyle(_CLOUD.reversed("fewcast_infrared"), "brightness temperature (K)")
    if kind == "reflectance":
        return ImageStyle(LinearSegmentedColormap.from_list("fewcast_grey", ["#0d0f14", "#ffffff"]), "reflectance (%)")
    return ImageStyle(_CLOUD, "display count" if kind == "display_count" else kind.replace("_", " "))


@dataclass(frozen=True)
class Measure:
    """How what is no image is drawn: on a scale of its own, from 0 to `top` (0: the largest)."""

    colours: str
    top: float
    label: str

    def range(self, values: np.ndarray) -> tuple[float, float]:
        """The scale for some values, not all of them NaN."""
        return 0.0, self.top or float(np.nanmax(values))


SPREAD = Measure("magma", 0.0, "spread (std)")
CHANCE = Measure("cividis", 1.0, "probability")
