"""A person at the pages: fills a form, is refused a bad value, starts a run, sees it end, and finds its pictures."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytest.importorskip("playwright", reason="no playwright: install the extra `test`")

from playwright.sync_api import Locator, Page, expect

pytestmark = pytest.mark.timeout(1800)
expect.set_options(timeout=60_000)


def field(page: Page, description: str) -> Locator:
    """The innermost field of the form with that description."""
    return page.locator(".schema-form-property", has=page.get_by_text(description, exact=False)).last


def open_form(page: Page, address: str, flow: str) -> None:
    """From the list of deployments to the form of one, as a person goes."""
    found = httpx.get(f"{address}/api/deployments/name/{flow}/tiny", timeout=60).json()
    page.goto(f"{address}/deployments")
    page.locator(f"a[href$='/deployments/deployment/{found['id']}']").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


def submit(page: Page) -> str:
    """Start what the form says; the id of its run. Where SQLite is busy (503) a person clicks again, and so do we."""
    for _ in range(10):
        with page.expect_response(re.compile("create_flow_run")) as answer:
            page.get_by_role("button", name="Submit").click()
        if answer.value.status != 503:
            break
    assert answer.value.status == 201, answer.value.text()
    run: str = answer.value.json()["id"]
    return run


def wait_for_the_end(page: Page, address: str, run: str) -> None:
    """Watch the run's page until it says that it is completed."""
    page.goto(f"{address}/runs/flow-run/{run}")
    badge = page.locator(".state-badge").first
    expect(badge).to_have_text(re.compile("Completed|Failed|Crashed"), timeout=600_000)
    logs = httpx.post(f"{address}/api/logs/filter", json={"logs": {"flow_run_id": {"any_": [run]}}}, timeout=60).json()
    assert badge.inner_text().strip() == "Completed", "\n".join(line["message"] for line in logs[-20:])


def test_a_form_is_filled_in_says_its_bounds_and_refuses_a_bad_value(
    page: Page, addresses: dict[str, str], keep: Callable[..., None]
) -> None:
    before = httpx.post(f"{addresses['prefect']}/api/flow_runs/count", json={}, timeout=60).json()
    open_form(page, addresses["prefect"], "pipeline")
    steps = field(page, "Gradient steps M. From 0 to 100.")
    expect(steps.locator("input")).to_have_value("1")
    expect(field(page, "Name of the preset.").locator("textarea")).to_have_value("tiny")
    keep(page, "prefect-form")
    steps.locator("input").fill("101")
    page.get_by_role("button", name="Submit").click()
    refusal = re.compile(
        r"found 101 \(Input should be .* 100\); give it as described: Gradient steps M. From 0 to 100."
    )
    expect(page.get_by_text(refusal).first).to_be_visible()
    keep(page, "prefect-refusal")
    assert page.url.split("?")[0].endswith("/run")
    assert httpx.post(f"{addresses['prefect']}/api/flow_runs/count", json={}, timeout=60).json() == before


def test_a_pipeline_started_from_the_page_ends_with_its_artifacts_and_its_mlflow_run(
    page: Page, addresses: dict[str, str], keep: Callable[..., None]
) -> None:
    prefect = addresses["prefect"]
    open_form(page, prefect, "pipeline")
    field(page, "Resamples of the block bootstrap.").locator("input").fill("120")
    run = submit(page)
    wait_for_the_end(page, prefect, run)
    keep(page, "prefect-run")
    page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts", exact=True)).first.click()
    page.locator("a[href*='/artifacts/artifact/']", has=page.get_by_text("pipeline", exact=True)).first.click()
    expect(page.get_by_text("persistence").first).to_be_visible()
    links = page.locator(f"a[href^='{addresses['mlflow']}']")
    expect(links.last).to_be_visible()
    keep(page, "prefect-scorecard")
    assert (Path(addresses["folder"]) / "data/tiny/scorecard").is_dir()

    training, evaluation = (str(link.get_attribute("href")) for link in (links.first, links.last))
    for address, name, metric in ((training, "train abml", "loss|crps"), (evaluation, "evaluate test", "crps/")):
        page.goto(address)
        close = page.get_by_role("button", name=re.compile("^close$", re.I))
        expect(page.get_by_text(name).first).to_be_visible()
        if close.count():  # MLflow's assistant, which covers a third of the page
            close.first.click()
        page.get_by_role("tab", name="Model metrics").click()
        expect(page.get_by_text(re.compile(metric)).first).to_be_visible()
        if address == training:
            keep(page, "mlflow-run")
    page.get_by_role("tab", name="Artifacts").click()
    page.locator("[artifact-name='figures']").click()
    page.locator("[artifact-name='crps.png']").click()
    picture = page.locator("img[src^='blob:'], .image-outer-container img, [class*=image] img").first
    expect(picture).to_be_visible()
    keep(page, "mlflow-picture")


def test_a_forecaster_makes_a_nowcast_with_the_champion_and_sees_its_picture(
    page: Page, addresses: dict[str, str], keep: Callable[..., None]
) -> None:
    prefect, folder = addresses["prefect"], Path(addresses["folder"])
    open_form(page, prefect, "promote")
    wait_for_the_end(page, prefect, submit(page))
    for members in ("2", "3"):
        open_form(page, prefect, "nowcast")
        field(page, "Members, one a weight sample.").locator("input").fill(members)
        model = field(page, "Trained run: a folder").locator("textarea, input").first
        model.fill("models:/tiny@champion")
        wait_for_the_end(page, prefect, submit(page))
    assert len([*(folder / "data/models/tiny").iterdir()]) == 1, "a version is fetched once"
    page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts", exact=True)).first.click()
    image = page.locator("a[href*='/artifacts/artifact/']", has_text="nowcast-picture").first
    expect(image).to_be_visible()
    page.goto(prefect + str(image.get_attribute("href")))  # a list that is drawn anew under a click swallows it
    expect(page.locator("img[src^='data:image/jpeg']").first).to_be_visible()
    # Its words stand in its place, and are visible, until it is decoded.
    page.wait_for_function("document.querySelector(`img[src^='data:image/jpeg']`).naturalWidth > 300")
    keep(page, "prefect-nowcast")


def test_the_page_works_under_localhost_and_a_page_of_another_site_reads_nothing(
    page: Page, addresses: dict[str, str]
) -> None:
    page.goto(f"{addresses['prefect'].replace('127.0.0.1', 'localhost')}/deployments")
    expect(page.locator("a[href*='/deployments/deployment/']").first).to_be_visible()
    ask = f"fetch('{addresses['prefect']}/api/admin/version').then(() => 'read', () => 'refused')"
    assert page.evaluate(ask) == "read"
    page.goto(addresses["mlflow"])  # another origin
    assert page.evaluate(ask) == "refused"
