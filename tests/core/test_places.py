"""Where one stage was told to leave something, the stages after it look for it."""

from pathlib import Path

from core.config import load

TINY = Path(__file__).parents[1] / "flows" / "tiny.toml"


def test_places_come_from_the_root() -> None:
    config = load(TINY)
    assert config.forecast.archive == config.ingest.archive == "data/tiny/archive.zarr"
    assert load(TINY, ["root=s3://bucket/sky/"]).train.episodes == "s3://bucket/sky/episodes.zarr"


def test_a_place_that_is_given_once_holds_for_the_stages_after_it() -> None:
    config = load(
        TINY, ["ingest.archive=s3://bucket/a.zarr", "episodes.store=b.zarr", "train.run=c", "forecast.output=d"]
    )
    assert {stage.archive for stage in (config.episodes, config.evaluate, config.forecast, config.monitor)} == {
        "s3://bucket/a.zarr"
    }
    assert config.train.episodes == config.evaluate.episodes == "b.zarr"
    assert config.evaluate.run == config.forecast.run == "c"
    assert config.monitor.forecasts == "d"
    assert load(TINY, ["ingest.archive=a", "forecast.archive=b"]).forecast.archive == "b"
