"""A forecast made anew over one that is there: whole or not at all, whatever stops it."""

import hashlib
import os
from pathlib import Path

import pytest

from core.config import ForecastConfig
from core.forecast.forecast import forecast


@pytest.fixture
def config(chain, tmp_path) -> ForecastConfig:
    return ForecastConfig(
        archive=chain.archive, run=chain.run, output=str(tmp_path / "out"), members=2, support_windows=0, netcdf=True
    )  # fmt: skip


def contents(config: ForecastConfig) -> dict[str, str]:
    """A digest of every file in the folder, by its name."""
    files = [path for path in Path(config.output).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("stage", ["forecast_picture", "animate", "write_store", "tree_to_disk"])
def test_a_remake_that_fails_leaves_the_forecast_as_it_was_and_nothing_beside(config, monkeypatch, stage):
    forecast(config)
    before = contents(config)

    def fail(*_, **__):
        raise KeyboardInterrupt

    module = "folder" if stage == "tree_to_disk" else "forecast"
    monkeypatch.setattr(f"core.forecast.{module}.{stage}", fail)
    with pytest.raises(KeyboardInterrupt):
        forecast(config.model_copy(update={"seed": 1}))
    assert contents(config) == before
    assert not [*Path(config.output).glob(".*")]
    monkeypatch.undo()
    assert forecast(config).skipped


@pytest.mark.parametrize("suffix", [".png", ".gif", ".nc", ".zarr"])
def test_a_kill_between_the_renames_leaves_a_forecast_to_be_made_and_not_a_mixed_one(config, monkeypatch, suffix):
    made = forecast(config)
    first = contents(config)
    other = config.model_copy(update={"seed": 1})
    replace, rename = os.replace, os.rename

    def kill_at(step):
        def one(source, target):
            if Path(target) == Path(made.url).with_suffix(suffix):
                raise KeyboardInterrupt
            step(source, target)

        return one

    monkeypatch.setattr(os, "replace", kill_at(replace))
    monkeypatch.setattr(os, "rename", kill_at(rename))
    with pytest.raises(KeyboardInterrupt):
        forecast(other)
    monkeypatch.undo()
    assert not Path(made.url).exists()
    assert not forecast(config).skipped, "its pictures may be the other one's"
    again = contents(config)
    assert again.keys() == first.keys()
    pictures = [name for name in first if name.endswith((".png", ".gif"))]
    assert [again[name] for name in pictures] == [first[name] for name in pictures]
    assert forecast(config).skipped
