"""What a picture becomes on a run's page."""

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from tasks import pictures


@pytest.mark.parametrize("name", ["film.gif", "still.png", "still.jpg"])
def test_a_picture_is_a_small_jpeg_and_a_film_its_last_frame(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = []
    monkeypatch.setattr(pictures, "create_markdown_artifact", lambda text, key, description: published.append(text))
    frames = [Image.new("RGB", (1800, 300), colour) for colour in ("red", "green", "blue")]
    if name.endswith("gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    else:
        frames[-1].save(tmp_path / name)
    pictures.publish_file("key", tmp_path / name, "words")
    [text] = published
    start = "![key](data:image/jpeg;base64,"
    assert text.startswith(start)
    with Image.open(io.BytesIO(base64.b64decode(text.removeprefix(start).removesuffix(")"), validate=True))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (900, 150))
        assert shown.getpixel((450, 75))[2] > 200 > 50 > shown.getpixel((450, 75))[0]
