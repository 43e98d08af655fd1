"""Real servers on loopback and a real browser. `FEWCAST_SCREENSHOTS=docs/images` keeps the pictures of the guides."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.stack import Stack

TINY = Path(__file__).parents[1] / "flows" / "tiny.toml"
SERVICES = ("prefect", "mlflow", "dask", "dask-worker", "worker-fewcast-cpu", "worker-fewcast-gpu")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
PATIENCE_MS = 60_000  # of a click or a look, on a machine that is busy with other things
WIDTH, HEIGHT = 1280, 860


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser that is installed; none is downloaded."""
    pytest.importorskip("playwright", reason="no playwright: install the extra `test`")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium: install Debian's package `chromium`")
    return found


@pytest.fixture(scope="module")
def addresses(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Prefect, MLflow and a worker with the deployments of the tiny config; their addresses, and `folder`."""
    folder = Path(os.environ.get("FEWCAST_TEST_STACK") or tmp_path_factory.mktemp("stack"))
    stack = Stack(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        patch.delenv("FEWCAST_AUTH", raising=False)
        try:
            yield {**stack.up([str(TINY)], only=SERVICES), "folder": str(folder)}
        finally:
            if not os.environ.get("FEWCAST_TEST_STACK"):
                stack.down()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser) -> Iterator[object]:
    """A page of a browser that knows nothing yet, in light colours for the guides."""
    size = {"width": WIDTH, "height": HEIGHT}
    # Moving backgrounds, drawn without a GPU, would take a core from the pipeline that is being watched.
    context = browser.new_context(viewport=size, color_scheme="light", reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def keep() -> Callable[..., None]:
    """Keep a picture of a page (or of a part of it) for the guides, where that is asked for."""
    folder = os.environ.get("FEWCAST_SCREENSHOTS")

    def picture(shown: Any, name: str) -> None:
        if folder:
            time.sleep(0.5)  # what is drawn late
            shown.screenshot(path=str(Path(folder) / f"{name}.png"), animations="disabled")

    return picture
