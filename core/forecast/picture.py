"""The picture of a forecast: what is most likely, how sure that is, and how likely the named events are."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.forecast.dataset import LOST
from core.forecast.newest import Newest
from core.satellite.area import lonlat
from core.satellite.granule import UNITS
from core.verify.colours import image_style
from core.verify.plots import limits

COLUMNS = 5  # lead times shown, spread over all
EVENTS = 2
LIKELY = 1.2816  # standard deviations that hold 8 of 10 outcomes of a Gaussian
WORDS = ("sure", "fairly sure", "unsure", "very unsure", "open")
CHANCES = (0, 5, 25, 50, 75, 95, 100)
_WIDTH, _GAP, _LEFT, _RIGHT, _HEAD, _FOOT = 2.1, 0.06, 1.5, 1.25, 0.95, 0.3


def forecast_picture(dataset: xr.Dataset, view: Newest, init: int, skill: Mapping[str, Any] | None = None) -> Figure:
    """One column a lead time, beside the newest frame; rows: mean, how sure, events, one member (first channel)."""
    leads = shown_leads(dataset)
    now = observed(view, [init])[0]
    mean = dataset["mean"].isel(channel=0, lead_time=leads).values
    member = member_values(dataset, 0)[leads, 0]
    style = image_style(view.kinds[0])
    scale = Normalize(*limits(np.concatenate([now.ravel(), mean.ravel()])))
    page = _Page(view, dataset, len(leads), 3 + len(_events(dataset)))
    image: dict[str, Any] = {"cmap": style.colours, "norm": scale}
    page.row("most likely\n(mean)", mean, image, style.label, first=now)
    page.row("how sure", LIKELY * dataset["spread"].isel(channel=0, lead_time=leads).values, *surety(view))
    chances = {"cmap": ListedColormap(colormaps["PuBu"](np.linspace(0, 1, 6))), "norm": BoundaryNorm(CHANCES, 6)}
    for name, words in _events(dataset).items():
        values = 100 * dataset["probability"].sel(event=name).isel(lead_time=leads).values
        page.row(f"chance of\n{name.replace('_', ' ')}\n({words})", values, chances, "chance (%)", list(CHANCES))
    page.row("one of the\nmembers", member, image, style.label)
    page.heading(_title(dataset, view), _verified(skill or {}))
    return page.figure


def shown_leads(dataset: xr.Dataset) -> list[int]:
    """A few lead times, spread over all, the last included."""
    count = dataset.sizes["lead_time"]
    return sorted({round((i + 1) * count / min(COLUMNS, count)) - 1 for i in range(min(COLUMNS, count))})


def member_values(dataset: xr.Dataset, index: int) -> NDArray[np.float32]:
    """One member (L, C, Y, X) in physical units from its codes, NaN where missing."""
    members = dataset["members"]
    codes = members[index].values.astype(np.float32)
    values = codes * np.float32(members.attrs["scale_factor"]) + np.float32(members.attrs["add_offset"])
    values[codes == LOST] = np.nan
    return values


def observed(view: Newest, slots: list[int]) -> NDArray[np.float32]:
    """Frames (T, Y, X) of the first channel in physical units, NaN where missing."""
    archive, name = view.frames.archive, view.model.spec.channels[0]
    kind = archive.kind_of[name]
    return archive.read(kind, slots, *view.area)[:, archive.kinds[kind].index(name)]


def surety(view: Newest) -> tuple[dict[str, Any], str, list[float]]:
    """Colours, label and steps for the half-width of the interval that holds 8 of 10 outcomes.

    The first step is a tenth of the channel's own standard deviation over the training data, to one digit; each
    further one is twice as wide.
    """
    first = float(f"{0.1 * view.model.spec.std[0]:.1g}")
    steps = [first * factor for factor in (1, 2, 4, 8)]
    colours = ListedColormap(colormaps["YlOrBr"](np.linspace(0.05, 1, 5)))
    style = {"cmap": colours, "norm": BoundaryNorm([0.0, *steps, 4 * steps[-1]], 5)}
    return style, f"8 of 10 lie within ± ({UNITS[view.kinds[0]]})", steps


def _events(dataset: xr.Dataset) -> dict[str, str]:
    if "event" not in dataset:
        return {}
    names = [str(name) for name in dataset["event"].values]
    words = str(dataset["event"].attrs["long_name"]).split("; ")
    return dict(list(zip(names, words, strict=True))[:EVENTS])


def _title(dataset: xr.Dataset, view: Newest) -> str:
    start = str(np.datetime_as_string(dataset["init_time"].values, unit="m")).replace("T", " ")
    return f"{view.model.spec.channels[0]} nowcast from {start} UTC"


def _verified(skill: Mapping[str, Any]) -> str:
    rows = [row for row in skill.get("rows", []) if row["channel"] == skill["channels"][0]]
    if not rows:
        return "no forecast of this folder is verified yet"
    row = rows[(len(rows) - 1) // 2]
    span = (
        f"{skill['hours']:g} h up to {skill['last'][5:].replace('T', ' ')} UTC, {skill['forecasts']} forecasts verified"
    )
    if row["skill"] is None:
        return f"{span}; against persistence without error there is no skill"
    word = "better" if row["skill"] >= 0 else "worse"
    return (
        f"{span}: at +{row['lead_minutes']} min {100 * abs(row['skill']):.0f} % {word} than persistence; "
        f"the 90 % interval held {100 * row['coverage90']:.0f} %"
    )


class _Page:
    """Rows of equal maps, laid out in inches, with labels on the left and a colour bar for each row on the right."""

    def __init__(self, view: Newest, dataset: xr.Dataset, leads: int, rows: int) -> None:
        shown = shown_leads(dataset)
        self.leads = [int(lead / np.timedelta64(1, "m")) for lead in dataset["lead_time"].values[shown]]
        self.valid = [str(np.datetime_as_string(t, unit="m"))[11:] for t in dataset["valid_time"].values[shown]]
        self.height = _WIDTH * min(view.shape[0] / view.shape[1], 2.0)
        across = _LEFT + (leads + 1) * (_WIDTH + _GAP) + _RIGHT
        self.size = (across, _HEAD + rows * (self.height + _GAP) + _FOOT)
        self.figure, self.rows = Figure(figsize=self.size), 0
        every = max(1, max(view.shape) // 80)
        grid = view.frames.archive.grid.window(*view.area)
        east, north = (degrees[::every, ::every] for degrees in lonlat(grid))
        if np.nanmax(east) - np.nanmin(east) > 180:  # no satellite sees so far: the date line goes through it
            east = east % 360
        self.lonlat = east, north
        self.every = every

    def row(
        self, label: str, frames: NDArray[Any], style: dict[str, Any], bar: str,
        ticks: list[float] | list[int] | None = None, first: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        """One map a lead time, and before them the newest frame where it is given."""
        for column, frame in enumerate(frames, start=1):
            axis = self._axis(column)
            picture = axis.imshow(frame, **style)
            self._map(axis)
            if self.rows == 0:
                axis.set_title(f"+{self.leads[column - 1]} min\n{self.valid[column - 1]} UTC", fontsize=9, pad=4)
        if first is not None:
            axis = self._axis(0)
            axis.imshow(first, **style)
            self._map(axis, labels=True)
            axis.set_title("observed\nnewest frame", fontsize=9, pad=4)
        y = _HEAD + (self.rows + 0.5) * (self.height + _GAP)
        x = _LEFT - 0.12 if first is not None else _LEFT + _WIDTH - 0.15
        self.figure.text(x / self.size[0], 1 - y / self.size[1], label, ha="right", va="center", fontsize=9)
        place = (self.size[0] - _RIGHT + 0.1, y - 0.42 * self.height, 0.13, 0.84 * self.height)
        side = self.figure.add_axes(self._place(*place))
        colours = self.figure.colorbar(picture, cax=side, ticks=ticks)
        colours.set_label(bar, fontsize=8)
        side.tick_params(labelsize=7)
        if label == "how sure":
            shares = (np.arange(5) + 0.5) / 5
            for share, word in zip(shares, WORDS, strict=True):
                at = _LEFT + 0.35, y + (0.5 - share) * 0.84 * self.height
                box = self.figure.add_axes(self._place(at[0], at[1] - 0.09, 0.22, 0.18))
                box.set(xticks=[], yticks=[], facecolor=style["cmap"](int(share * 5)))
                self.figure.text((at[0] + 0.3) / self.size[0], 1 - at[1] / self.size[1], word, va="center", fontsize=8)
            self.figure.texts[-6].set_position(((_LEFT - 0.12) / self.size[0], 1 - y / self.size[1]))
        self.rows += 1

    def heading(self, title: str, below: str) -> None:
        across = 0.15 / self.size[0]
        self.figure.text(across, 1 - 0.2 / self.size[1], title, fontsize=13, weight="bold", va="center")
        self.figure.text(across, 1 - 0.44 / self.size[1], below, fontsize=9, color="0.3", va="center")

    def _axis(self, column: int) -> Axes:
        x = _LEFT + column * (_WIDTH + _GAP)
        y = _HEAD + self.rows * (self.height + _GAP)
        return self.figure.add_axes(self._place(x, y, _WIDTH, self.height))

    def _place(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches from the top left corner to matplotlib's fractions from the bottom left."""
        across, down = self.size
        return x / across, 1 - (y + height) / down, width / across, height / down

    def _map(self, axis: Axes, labels: bool = False) -> None:
        """Lines of longitude and latitude, so that a place can be found again."""
        axis.set(xticks=[], yticks=[], facecolor="#d9a0a0")  # what is missing shows as the ground colour
        for degrees, ways in zip(self.lonlat, ("EW", "NS"), strict=True):
            reach = float(np.nanmax(degrees) - np.nanmin(degrees))
            step = next((s for s in (0.5, 1, 2, 5, 10, 20) if reach / s <= 5), 40)
            levels = np.arange(np.floor(np.nanmin(degrees) / step) * step, np.nanmax(degrees), step)[1:]
            rows, columns = (np.arange(n) * self.every for n in degrees.shape)
            look: dict[str, Any] = {"colors": "0.85", "linewidths": 0.4, "linestyles": "solid", "alpha": 0.7}
            lines = axis.contour(columns, rows, degrees, levels=levels, **look)
            if labels:
                axis.clabel(lines, fontsize=6, fmt=partial(_degrees, ways=ways), colors="w")


def _degrees(value: float, ways: str) -> str:
    """A degree as maps name it: its size, and one of two ways; none for zero."""
    if value > 180:  # beyond the date line
        value -= 360
    way = ways[0] if value > 0 else ways[1] if value < 0 else ""
    return f"{abs(value):g}°{way}"
