"""Pictures on a run's page: small, and inside the artifact, since the page may be far from the files."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.artifacts import create_markdown_artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

_WIDTH = 900


def publish_figure(key: str, figure: "Figure", description: str) -> None:
    """Put a figure on the run."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=80, bbox_inches="tight")
    buffer.seek(0)
    _publish(key, Image.open(buffer), description)


def publish_file(key: str, path: Path, description: str) -> None:
    """Put a picture that lies on disk on the run, scaled down to the page; of an animation the last frame.

    A whole animation a run, every few minutes, would be most of the server's database.
    """
    from PIL import Image

    with Image.open(path) as picture:
        picture.seek(getattr(picture, "n_frames", 1) - 1)
        _publish(key, picture, description)


def last_frames(path: Path, count: int) -> "Iterator[Image.Image]":
    """The last frames of an animation on disk, in order."""
    from PIL import Image

    with Image.open(path) as moving:
        frames = getattr(moving, "n_frames", 1)
        for frame in range(frames - count, frames):
            moving.seek(frame)
            yield moving.convert("RGB")


def _publish(key: str, picture: "Image.Image", description: str) -> None:
    picture = picture.convert("RGB")
    picture.thumbnail((_WIDTH, 4 * _WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    # As Markdown: below an image artifact Prefect writes its address, here all of the data, across the page.
    create_markdown_artifact(f"![{key}](data:image/jpeg;base64,{data})", key=key, description=description)
