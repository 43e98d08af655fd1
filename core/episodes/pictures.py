"""What a person looks at first: the map of the contexts, and a sheet of episodes."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from core.episodes.plan import name_of
from core.episodes.store import EpisodeStore
from core.episodes.tables import rows

EDGES = {"train": "#1f77b4", "validation": "#ff7f0e", "test": "#d62728"}
GREYS = LinearSegmentedColormap.from_list(
    "light greys", colormaps["Greys"](np.linspace(0, 0.8, 64))
)  # text stays legible
OWN = {"train": "", "validation": "region", "test": "region"}  # the hold-out whose tiles are the split's own


def draw(url: str, folder: str) -> list[str]:
    """Write the map of the contexts and the sheet of episodes of a store into a folder; returns their paths."""
    store = EpisodeStore.open(url)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in (("contexts", context_map(store)), ("episodes", sheet(store))):
        paths.append(str(Path(folder, f"{name}.png")))
        figure.savefig(paths[-1], dpi=120)
    return paths


def context_map(store: EpisodeStore) -> Figure:
    """The tiles in archive pixels: outline by split, fill by mean change, with their valid windows written in."""
    spec, (height, width) = store.spec, store.attributes["shape"]
    contexts = store.contexts
    own = contexts[contexts["holdout"] == contexts["split"].map(OWN)]
    tiles = (
        own.groupby(["split", "row", "col", "y0", "x0"], sort=False)
        .agg({"change": "mean", "windows": "max"})
        .reset_index()
    )
    figure = Figure(figsize=(9, 1.1 + 7.3 * height / width), layout="constrained")
    axes = figure.add_subplot()
    scale = Normalize(0, float(np.nanmax(tiles["change"], initial=0)) or 1.0)
    crowded = len(tiles) > 120
    for tile in rows(tiles):
        corner = (tile.x0 - 0.5, tile.y0 - 0.5)
        face = GREYS(scale(tile.change)) if np.isfinite(tile.change) else "none"
        box = Rectangle(
            corner,
            spec.tile_pixels,
            spec.tile_pixels,
            facecolor=face,
            edgecolor=EDGES[tile.split],
            linewidth=2,
            clip_on=False,
        )
        axes.add_patch(box)
        if spec.margin_pixels:
            side = spec.tile_pixels + 2 * spec.margin_pixels
            place = (corner[0] - spec.margin_pixels, corner[1] - spec.margin_pixels)
            axes.add_patch(Rectangle(place, side, side, fill=False, edgecolor=EDGES[tile.split], linestyle=":"))
        if not crowded:
            middle = spec.tile_pixels / 2
            text = f"{tile.row},{tile.col}\n{tile.windows}"
            color = "white" if scale(tile.change) > 0.6 else "black"
            axes.text(corner[0] + middle, corner[1] + middle, text, ha="center", va="center", fontsize=8, color=color)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xlabel="x pixel", ylabel="y pixel")
    units = "counts" if store.units[0] == "1" else store.units[0]
    figure.colorbar(
        ScalarMappable(scale, GREYS),
        ax=axes,
        shrink=0.9,
        label=f"mean change of {store.channels[0]} between frames ({units})",
    )
    handles = [Patch(facecolor="none", edgecolor=color, linewidth=2, label=name) for name, color in EDGES.items()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.set_title("row,column and valid windows of the richest context", loc="right", fontsize=9)
    return figure


def sheet(store: EpisodeStore, channel: int = 0) -> Figure:
    """One episode of each split: its latest support window and its first query window, inputs then targets.

    The middle of each split's episodes is shown, all in one range of grey.
    """
    spec, catalog = store.spec, store.catalog
    names = [name_of(split, holdout) for split, holdout in zip(catalog["split"], catalog["holdout"], strict=True)]
    ids = {name: [i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)}
    chosen = {name: of[len(of) // 2] for name, of in ids.items()}
    codes = store.read(list(chosen.values()))[:, :, :, channel]
    support, query = store.init_times(list(chosen.values()))
    low, high = (float(v) for v in np.percentile(codes[codes != 65535], [1, 99])) if (codes != 65535).any() else (0, 1)
    parts = [(spec.support_windows, query[:, 0], "query")]
    if spec.support_windows:
        parts.insert(0, (spec.support_windows - 1, support[:, -1], "support"))
    frames = spec.input_frames + spec.target_frames
    figure = Figure(figsize=(1.1 * frames * len(parts) + 1, 1.35 * len(chosen) + 0.5), layout="constrained")
    legend = "inputs framed grey, targets green, missing pixels red; times are UTC, of the last input"
    figure.suptitle(f"{store.channels[channel]}: {legend}", fontsize=9)
    # A narrow empty column parts support from query.
    columns = ([1.0] * frames + [0.3]) * (len(parts) - 1) + [1.0] * frames
    axes = figure.subplots(len(chosen), len(columns), squeeze=False, width_ratios=columns)
    for panel in axes[:, [place for place, width in enumerate(columns) if width < 1]].ravel():
        panel.axis("off")
    gray = colormaps["gray"].with_extremes(bad="#c44")
    for row, name in enumerate(chosen):
        for part, (window, times, kind) in enumerate(parts):
            for frame in range(frames):
                image = codes[row, window, frame]
                panel = axes[row, part * (frames + 1) + frame]
                panel.imshow(np.ma.masked_equal(image, 65535), cmap=gray, vmin=low, vmax=high, interpolation="nearest")
                panel.set_xticks([])
                panel.set_yticks([])
                target = frame >= spec.input_frames
                for side in panel.spines.values():
                    side.set_color("#2a2" if target else "#888")
                if frame == 0:
                    time = np.datetime_as_string(times[row], "m").replace("T", " ")
                    panel.set_title(f"{kind}, {time}", fontsize=7, loc="left")
        axes[row, 0].set_ylabel(name.replace("_", "\n"), fontsize=8)
    return figure
