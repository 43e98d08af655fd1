"""An archive grows, or changes, under a store."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.archive import Archive, Status
from core.archive.archive import unpack
from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build, rebuild, validate
from core.episodes.frames import Frames
from core.episodes.leaks import leaks
from core.errors import FewcastError
from core.satellite.granule import Frame

Configure = Callable[..., EpisodesConfig]


@pytest.fixture
def copied(archive: Archive, tmp_path: Path) -> Archive:
    shutil.copytree(archive.url, tmp_path / "archive.zarr")
    return Archive.open(str(tmp_path / "archive.zarr"), "r+")


def forget(archive: Archive, slots: range) -> np.ndarray:
    """Make slots unseen; returns what their status was."""
    before = archive.status
    for slot in slots:
        archive.set_status(slot, archive.channels, Status.UNSEEN)
    return before


def restore(archive: Archive, slots: range, status: np.ndarray) -> None:
    for slot in slots:
        for column, name in enumerate(archive.channels):
            archive.set_status(slot, name, Status(int(status[slot, column])))


def test_growth_adds_a_version_and_changes_nothing(configure: Configure, copied: Archive) -> None:
    late = range(122, 144)
    status = forget(copied, late)
    config = configure(archive=copied.url)
    first = build(config)
    old = EpisodeStore.open(config.store)
    kept = {p.name: p.read_bytes() for p in Path(config.store, "frames").glob("c.*")}
    assert build(config).built == 0, "nothing has grown yet"
    restore(copied, late, status)
    second = build(config)
    assert (first.version, second.version) == (1, 2)
    assert second.built > 0
    new = EpisodeStore.open(config.store)
    assert new.catalog["version"].tolist() == [1] * first.built + [2] * second.built
    assert all((Path(config.store, "frames", name)).read_bytes() == data for name, data in kept.items())
    assert new.catalog.iloc[: first.built].drop(columns="version").equals(old.catalog.drop(columns="version"))
    assert np.array_equal(new.normalisation.mean, old.normalisation.mean)
    assert leaks(new.catalog) == []
    held = new.catalog.query("split == 'test' and holdout == 'both'")
    used = [(r.y0, r.x0, s) for r in held.itertuples() for s in r.query]
    assert len(used) == len(set(used)), "no window is scored in two versions"
    assert max(s for _, _, s in used) + 5 > 122
    pinned = EpisodeStore.open(config.store, version=1)
    assert (pinned.digest, len(pinned.catalog)) == (first.digest, first.built)
    assert np.array_equal(new.read([0, 5]), pinned.read([0, 5]))
    assert build(config).built == 0
    assert validate(config.store).valid


def test_a_changed_archive_is_noticed_and_cannot_mend_a_shard(configure: Configure, copied: Archive) -> None:
    config = configure(archive=copied.url)
    build(config)
    store = EpisodeStore.open(config.store)
    victim = store.catalog.iloc[2]
    slot = int(victim["query"][0])
    codes = copied.read_packed("brightness_temperature", [slot], slice(None), slice(None))[0, 0]
    frame = Frame(
        channel="ir", kind="brightness_temperature", time=copied.times[slot], observation_time=copied.times[slot],
        values=unpack(codes, "brightness_temperature") + np.float32(1), grid=copied.grid,
    )  # fmt: skip
    copied.record(copied.write_frame(slot, frame))
    with pytest.raises(FewcastError, match=r"changed under the episode store.*found \d+ of \d+ episodes"):
        build(config)
    assert validate(config.store).valid, "the store itself is as good as before"
    with pytest.raises(FewcastError, match=r"episode 2 of .* cannot be rebuilt: found other frames"):
        rebuild(config.store, [2])
    assert validate(config.store).valid


def test_a_second_survey_reads_only_what_was_written_since(
    configure: Configure, copied: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(archive=copied.url)
    build(config)
    read: list[int] = []
    codes = Frames.codes

    def counting(self: Frames, slots: list[int], *box: slice) -> np.ndarray:
        read.extend(slots)
        return codes(self, slots, *box)

    monkeypatch.setattr(Frames, "codes", counting)
    assert build(config).built == 0
    assert read == [], "nothing was written"
    frame = Frame(
        channel="ir", kind="brightness_temperature", time=copied.times[70], observation_time=copied.times[70],
        values=copied.read("brightness_temperature", [70])[0, 0], grid=copied.grid,
    )  # fmt: skip
    copied.record(copied.write_frame(70, frame))
    assert build(config).built == 0, "the same frame was published again"
    assert set(read) == {69, 70, 71}, "the frame, the next one's change, and what that one's change is measured from"
    kept = dict(np.load(Path(config.store, "survey.npz")))
    Path(config.store, "survey.npz").write_bytes(b"torn")
    assert build(config).built == 0
    for name, values in np.load(Path(config.store, "survey.npz")).items():
        assert np.array_equal(kept[name], values, equal_nan=values.dtype.kind == "f"), f"{name}: merged is from scratch"


def test_times_that_change_their_split_are_refused(configure: Configure, copied: Archive) -> None:
    config = configure(archive=copied.url)
    first = build(config)
    swapped = {
        "train": [{"start": "2021-12-01", "end": "2021-12-02"}],
        "test": [{"start": "2021-11-29", "end": "2021-11-30"}],
    }
    with pytest.raises(FewcastError, match=r"would leak into its earlier ones: found \d+ leaks, first: episode"):
        build(configure(swapped, archive=copied.url))
    assert EpisodeStore.open(config.store).digest == first.digest
    assert build(config).built == 0
