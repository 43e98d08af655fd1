"""Scores of past forecasts against scores computed by hand, as the truth comes."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from scores.probability import crps_for_ensemble

from core.archive import Archive, Status
from core.config import ForecastConfig
from core.forecast import verification
from core.forecast.folder import Folder
from core.forecast.forecast import forecast
from core.forecast.verification import Verified, roll, score, verify_forecasts
from core.report import Silent

INIT = "2024-06-02T06:00"


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def config(chain, tmp_path) -> ForecastConfig:
    archive = str(tmp_path / "archive.zarr")
    shutil.copytree(chain.archive, archive)
    return ForecastConfig(
        archive=archive, run=chain.run, output=str(tmp_path / "out"), init_time=INIT, members=5, support_windows=1,
        support_tiles=1, y0=6, x0=11, height=30, width=41, animation=False,
    )  # fmt: skip


def test_scores_are_those_of_an_independent_computation(config):
    made = forecast(config)
    rows = verify_forecasts(config).rolling["rows"]
    archive = Archive.open(config.archive)
    slot = archive.slot(made.init_time)
    start, *truth = archive.read("brightness_temperature", range(slot, slot + 3), slice(6, 36), slice(11, 52))[:, 0]
    with xr.open_zarr(made.url, consolidated=False) as data:
        for lead, (row, frame) in enumerate(zip(rows, truth, strict=True)):
            seen = np.isfinite(frame) & np.isfinite(start)
            assert (~seen).sum() > 0
            members = data["members"].values[:, lead, 0][:, seen]
            mean, spread = (data[name].values[lead, 0][seen] for name in ("mean", "spread"))
            expected = crps_for_ensemble(
                xr.DataArray(members, dims=("m", "p")), xr.DataArray(frame[seen], dims="p"), "m", method="fair"
            )
            assert row["lead_minutes"] == 30 * (lead + 1)
            assert row["crps"] == pytest.approx(float(expected), rel=1e-4)
            assert row["crps_persistence"] == pytest.approx(np.abs(start - frame)[seen].mean(), rel=1e-5)
            assert row["skill"] == pytest.approx(1 - row["crps"] / row["crps_persistence"])
            assert row["bias"] == pytest.approx((mean - frame[seen]).mean(), rel=1e-3)
            assert row["coverage90"] == pytest.approx((np.abs(mean - frame[seen]) <= 1.6449 * spread).mean())


def test_scoring_takes_the_memory_of_one_lead_time(config):
    whole = config.model_copy(update={"y0": 0, "x0": 0, "height": 0, "width": 0, "support_windows": 0})
    place, archive = Path(forecast(whole).url), Archive.open(config.archive)
    group = zarr.open_group(place, mode="r+")
    group["member"].append(np.arange(5, 300, dtype=np.int32))
    group["members"].append(np.tile(group["members"][:], (59, 1, 1, 1, 1)))
    peaks = []
    for skip in ({"30"}, {"30"}, set()):  # the first call imports, and fills caches
        tracemalloc.start()
        score(place, archive, skip)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.3 * peaks[1], peaks


def test_each_lead_time_is_scored_once_when_its_truth_has_come(config):
    archive = Archive.open(config.archive, "r+")
    slot = archive.slot(np.datetime64(INIT, "s"))
    for later in (slot + 1, slot + 2):
        archive.set_status(later, archive.channels, Status.UNSEEN)
    forecast(config)
    first = verify_forecasts(config)
    assert (first.lead_times, first.waiting, first.rolling) == (0, 2, {})
    assert "has not come" in first.markdown

    archive.set_status(slot + 1, archive.channels, Status.COMPLETE)
    second = verify_forecasts(config)
    assert (second.scored, second.lead_times, second.waiting) == (1, 1, 1)
    assert [row["lead_minutes"] for row in second.rolling["rows"]] == [30]
    archive.set_status(slot + 2, archive.channels, Status.COMPLETE)
    third = verify_forecasts(config)
    assert (third.lead_times, third.waiting) == (1, 0)
    again = verify_forecasts(config)
    assert (again.lead_times, again.rolling) == (0, third.rolling)
    assert again.rolling["rows"][0] == second.rolling["rows"][0]
    assert "| ir | 30 | 1 |" in again.markdown


def test_a_forecast_made_anew_is_scored_anew_and_one_deleted_keeps_its_scores(config):
    made = forecast(config)
    before = verify_forecasts(config).rolling["rows"]
    forecast(config.model_copy(update={"seed": 1}))
    renewed = verify_forecasts(config)
    assert renewed.lead_times == 2
    assert renewed.rolling["rows"][0]["crps"] != before[0]["crps"]
    shutil.rmtree(made.url)
    assert verify_forecasts(config).rolling == renewed.rolling


def _take_away(chunks: Path) -> None:
    """Those of a scalar are one file."""
    shutil.rmtree(chunks) if chunks.is_dir() else chunks.unlink()


def test_what_cannot_be_scored_is_one_line_each_and_the_rest_are_scored(config):
    made = forecast(config)
    folder = Folder(config.output)
    places = [folder.place(made.init_time - np.timedelta64(hours, "h")) for hours in range(1, 12)]
    for place in (*places[:3], *places[6:]):
        shutil.copytree(made.url, place)
    (places[0] / "zarr.json").unlink()
    (places[1] / "zarr.json").write_text("")
    for chunk in (places[2] / "mean" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"torn")
    for place, field in zip(places[6:], ("members", "spread", "lead_time", "valid_time", "init_time"), strict=True):
        _take_away(place / field / "c")
    with xr.open_zarr(made.url, consolidated=False) as data:
        plain = data.drop_encoding()
        for place, changed in (
            (places[3], plain.assign_coords(channel=np.array(["wv"], object))),
            (places[4], plain.assign_coords(x=data["x"].values + 1000)),
            (places[5], plain.assign(members=data["members"] * np.nan)),
        ):
            changed.to_zarr(place, zarr_format=3, consolidated=False)
    told = Told()
    found = verify_forecasts(config, report=told)
    assert (found.forecasts, found.scored, found.lead_times, found.rolling["forecasts"]) == (12, 1, 2, 1)
    assert found.waiting == 0
    for place, line in zip(sorted(places, reverse=True), sorted(told.messages, reverse=True), strict=True):
        assert line.startswith(f"the forecast {place} cannot be scored: found ")
        assert "\n" not in line
    assert any("channels that" in line and "lacks: wv" in line for line in told.messages)
    assert sum("times that do not follow from its start" in line for line in told.messages) == 3


def test_what_is_fully_scored_is_not_opened_again(config, monkeypatch):
    forecast(config)
    first = verify_forecasts(config)
    opened, really = [], xr.open_zarr
    monkeypatch.setattr(xr, "open_zarr", lambda *given, **named: opened.append(given) or really(*given, **named))
    assert verify_forecasts(config).rolling == first.rolling
    assert opened == []
    [path] = Path(first.url).glob("[0-9]*.json")
    book = json.loads(path.read_text())
    del book[f"{INIT}:00"]["lead_times"]  # as earlier versions wrote it
    path.write_text(json.dumps(book))
    for _ in range(2):
        assert verify_forecasts(config).rolling == first.rolling
    assert len(opened) == 1


def test_a_days_scores_are_read_once_however_many_forecasts_it_has(config, monkeypatch):
    made = forecast(config)
    for hours in range(1, 4):
        shutil.copytree(made.url, Folder(config.output).place(made.init_time - np.timedelta64(hours, "h")))
    verify_forecasts(config)
    read, really = [], verification._read
    monkeypatch.setattr(verification, "_read", lambda path: read.append(path.name) or really(path))
    assert verify_forecasts(config).forecasts == 4
    assert read == ["20240602.json"] * 2, "once to go on from, and once for the rolling scores"


def test_the_rolling_span_reaches_back_from_the_newest_and_weights_by_pixels(tmp_path):
    def sums(pixels: float, crps: float) -> dict[str, float]:
        rest = dict.fromkeys(("crps_persistence", "bias", "squared_error", "variance", "coverage90"), pixels)
        return {"pixels": pixels, "crps": pixels * crps, **rest}

    folder = tmp_path / "verification"
    folder.mkdir()
    for moment, values in {"2024-06-01T05:00:00": sums(10, 9.0), "2024-06-01T20:00:00": sums(30, 1.0),
                           "2024-06-02T06:00:00": sums(10, 3.0)}.items():  # fmt: skip
        path = folder / f"{moment[:10].replace('-', '')}.json"
        book = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(book | {moment: {"identity": {}, "leads": {"30": {"ir": values}}}}))
    [row] = roll(Folder(str(tmp_path)), hours=24)["rows"]
    assert (row["forecasts"], row["crps"], row["skill"]) == (2, 1.5, -0.5)
    assert roll(Folder(str(tmp_path)), hours=48)["forecasts"] == 3
    assert roll(Folder(str(Path(tmp_path) / "nothing")), hours=24) == {}


@pytest.mark.parametrize(("pixels", "persistence", "crps"), [(0.0, 0.0, None), (10.0, 0.0, 0.5)])
def test_what_is_undefined_is_a_dash_and_not_a_number(tmp_path, pixels, persistence, crps):
    sums = dict.fromkeys(("bias", "squared_error", "variance", "coverage90"), 0.0)
    sums |= {"pixels": pixels, "crps": 0.5 * pixels, "crps_persistence": persistence}
    folder = tmp_path / "verification"
    folder.mkdir()
    book = {"2024-06-01T05:00:00": {"identity": {}, "leads": {"30": {"ir": sums}}}}
    (folder / "20240601.json").write_text(json.dumps(book))
    rolling = roll(Folder(str(tmp_path)), hours=24)
    [row] = rolling["rows"]
    assert (row["crps"], row["skill"]) == (crps, None)
    assert "NaN" not in json.dumps(rolling)
    line = Verified(1, 1, 1, 0, rolling, "").markdown.splitlines()[-1]
    assert line.startswith("| ir | 30 | 1 | " + ("-" if crps is None else "0.5"))
    assert line.split("|")[6].strip() == "-"
