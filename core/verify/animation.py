"""A window's forecasts as one moving picture, all of them side by side."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from core.verify.colours import image_style
from core.verify.panels import Panel
from core.verify.plots import image_limits

_ROWS = 2
_WIDTH, _TITLE, _HEAD, _GAP = 1.9, 0.2, 0.28, 0.04  # inches: of a panel, of its title, of the page's head
_DPI = 100
_MILLISECONDS, _LAST_MILLISECONDS = 450, 1500


def animation(inputs: np.ndarray, panels: Sequence[Panel], lead_minutes: tuple[int, ...], kind: str) -> bytes:
    """A moving PNG of two rows of panels: the inputs in every one that is an image, then the panels' own frames."""
    style, limits = image_style(kind), image_limits(inputs, panels)
    columns, height = -(-len(panels) // _ROWS), _WIDTH * inputs.shape[-2] / inputs.shape[-1]
    across, down = columns * (_WIDTH + _GAP) + _GAP, _HEAD + _ROWS * (_TITLE + height + _GAP)
    step = lead_minutes[0]
    frames = []
    for t in range(len(inputs) + len(lead_minutes)):
        lead = t - len(inputs)
        figure = Figure(figsize=(across, down), dpi=_DPI)
        when = f"{(lead + 1) * step:+d} min, observed" if lead < 0 else f"+{lead_minutes[lead]} min"
        figure.text(_GAP / across, 1 - 0.2 / down, when, fontsize=9, weight="bold" if lead >= 0 else "normal")
        for place, panel in enumerate(panels):
            row, column = divmod(place, columns)
            x, y = _GAP + column * (_WIDTH + _GAP), _HEAD + row * (_TITLE + height + _GAP) + _TITLE
            axis = figure.add_axes((x / across, 1 - (y + height) / down, _WIDTH / across, height / down))
            axis.set(xticks=[], yticks=[], facecolor="#d9a0a0")
            axis.set_title(panel.title, fontsize=7.5, pad=2)
            if measure := panel.measure:
                low, high = measure.range(panel.values)
                axis.set_title(f"{panel.title}, {low:g} to {high:.2g}", fontsize=7.5, pad=2)
                if lead < 0:
                    axis.set_facecolor("0.96")  # nothing was forecast yet
                    continue
                axis.imshow(panel.values[lead], cmap=measure.colours, vmin=low, vmax=high)
            else:
                frame = inputs[t] if lead < 0 else panel.values[lead]
                axis.imshow(frame, cmap=style.colours, vmin=limits[0], vmax=limits[1])
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))
    stream = io.BytesIO()
    durations = [_MILLISECONDS] * (len(frames) - 1) + [_LAST_MILLISECONDS]
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return stream.getvalue()
