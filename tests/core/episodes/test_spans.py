"""Times of splits and spans of contexts, against the calendar."""

from typing import Any

import numpy as np
import pytest

from core.config import SplitConfig, TimeRange
from core.episodes.spans import season_of, spans, split_slots, timing
from core.errors import FewcastError

HOURLY = np.datetime64("2020-11-15T00:00", "ns") + np.arange(24 * 150) * np.timedelta64(1, "h")


def split(**changes: Any) -> SplitConfig:
    ranges = {
        "train": [{"start": "2020-11-20", "end": "2020-12-10"}, {"start": "2020-12-25", "end": "2021-01-05"}],
        "validation": [{"start": "2020-12-10", "end": "2020-12-15"}],
        "test": [{"start": "2020-12-15", "end": "2020-12-20"}],
    }
    return SplitConfig(**(ranges | changes))


def test_a_buffer_is_kept_between_the_frames_of_splits() -> None:
    claimed = split_slots(split(buffer_minutes=300), HOURLY)
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        gaps = np.abs(HOURLY[claimed[a]][:, None] - HOURLY[claimed[b]][None])
        assert gaps.min() >= np.timedelta64(300, "m")
    assert claimed["test"].sum() == 5 * 24, "test gives way to nobody"


def test_times_that_two_splits_claim_are_refused() -> None:
    with pytest.raises(FewcastError, match=r"train and test claim the same times: found 24 common slots"):
        split_slots(split(test=[{"start": "2020-12-09", "end": "2020-12-10"}]), HOURLY)


def test_december_belongs_to_the_winter_that_follows() -> None:
    months = np.arange("2020-01", "2022-01", dtype="M8[M]").astype("M8[ns]")
    names = [season_of(month) for month in months]
    assert names[:3] == [("DJF", 2020), ("DJF", 2020), ("MAM", 2020)]
    assert names[10:15] == [("SON", 2020), ("DJF", 2021), ("DJF", 2021), ("DJF", 2021), ("MAM", 2021)]


def test_seasons_and_months_are_the_calendars() -> None:
    found = spans("season", split().train, HOURLY, 24, 0)
    assert [(s.season, s.year) for s in found] == [("SON", 2020), ("DJF", 2021)]
    assert HOURLY[found[1].start] == np.datetime64("2020-12-01")
    assert HOURLY[found[1].stop] == np.datetime64("2021-03-01")
    months = spans("month", split().train, HOURLY, 24, 0)
    assert [str(HOURLY[s.start])[:7] for s in months] == ["2020-11", "2020-12", "2021-01"]


@pytest.mark.parametrize(("hours", "stride"), [(24, 24), (30, 7), (6, 1.5), (1000, 3)])
def test_sliding_spans_cover_their_range_and_stay_inside(hours: float, stride: float) -> None:
    one = TimeRange.model_validate({"start": "2020-12-10", "end": "2020-12-15"})
    found = spans("hours", [one], HOURLY, hours, stride)
    first, last = np.searchsorted(HOURLY, np.array(["2020-12-10", "2020-12-15"], "M8[ns]"))
    assert found[0].start == first
    assert max(s.stop for s in found) == last
    assert all(first <= s.start < s.stop <= last and s.stop - s.start <= hours for s in found)
    assert len({s.start for s in found}) == len(found)


def test_a_cadence_that_the_archive_lacks_is_refused(configure: Any) -> None:
    made = timing(configure(cadence_minutes=60, gap_minutes=40), 30)
    assert (made.step, made.gap, made.reach, made.lead_minutes) == (2, 2, 8, (60, 120, 180))
    with pytest.raises(FewcastError, match=r"every 45 minutes.*found slots every 30 minutes"):
        timing(configure(cadence_minutes=45), 30)
