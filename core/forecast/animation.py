"""The animation of a forecast: the newest frames, then mean, one member and how sure, lead time by lead time."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import font_manager
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.forecast.newest import Newest
from core.forecast.picture import LIKELY, member_values, observed, surety
from core.verify.colours import image_style
from core.verify.plots import limits

PANEL_PIXELS = 360
_HEAD, _GAP = 44, 4
_SECONDS = {"observed": 0.3, "forecast": 0.45, "last": 1.5}


def animate(dataset: xr.Dataset, view: Newest, init: int, path: Path) -> None:
    """Write a GIF; the panels are mean, one member, and how sure. While frames are observed all of it is sure."""
    spec = view.model.spec
    slots = [init + offset * view.step for offset in range(1 - spec.input_frames, 1)]
    seen = observed(view, slots)
    mean = dataset["mean"].isel(channel=0).values
    member = member_values(dataset, 0)[:, 0]
    width = LIKELY * dataset["spread"].isel(channel=0).values
    image = {"cmap": image_style(view.kinds[0]).colours, "norm": Normalize(*limits(np.concatenate([seen, mean])))}
    sure, words, steps = surety(view)
    legend = f"{words}: " + ", ".join(f"{step:g}" for step in steps)
    times = [*view.frames.archive.times[slots], *dataset["valid_time"].values]
    frames, durations = [], []
    for i, moment in enumerate(times):
        lead = i - len(seen)
        at = np.datetime_as_string(moment, unit="m").replace("T", " ")
        if lead < 0:
            panels = [(seen[i], image)] * 2 + [(0 * seen[i], sure)]  # missing stays missing
            words = f"{spec.channels[0]}  {at} UTC   observed"
        else:
            panels = [(mean[lead], image), (member[lead], image), (width[lead], sure)]
            words = f"{spec.channels[0]}  {at} UTC   forecast +{spec.lead_minutes[lead]} min"
        frames.append(_page(words, ("most likely", "one of the members", f"how sure ({legend})"), panels))
        durations.append(_SECONDS["observed" if lead < 0 else "forecast"])
    durations[-1] = _SECONDS["last"]
    frames[0].save(
        path, "GIF", save_all=True, append_images=frames[1:], duration=[int(1000 * s) for s in durations], loop=0
    )


def _page(title: str, labels: tuple[str, ...], panels: list[tuple[NDArray[np.float32], dict[str, Any]]]) -> Image.Image:
    pictures = [_panel(values, style) for values, style in panels]
    width, height = pictures[0].size
    page = Image.new("RGB", (len(pictures) * (width + _GAP) - _GAP, height + _HEAD), "white")
    draw = ImageDraw.Draw(page)
    draw.text((4, 3), title, fill="black", font=_font(14))
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        page.paste(picture, (i * (width + _GAP), _HEAD))
        draw.text((i * (width + _GAP) + 4, 25), label, fill="black", font=_font(11))
    # A tenth of the time of the best palette, and no difference to see.
    return page.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _panel(values: NDArray[np.float32], style: dict[str, Any]) -> Image.Image:
    colours = style["cmap"].with_extremes(bad="#d9a0a0")(style["norm"](np.ma.masked_invalid(values)), bytes=True)
    picture = Image.fromarray(colours[..., :3])
    factor = PANEL_PIXELS / max(picture.size)
    width, height = (max(1, round(n * factor)) for n in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR if factor < 1 else Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
