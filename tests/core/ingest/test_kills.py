"""What a kill, a full disk and a second writer cost: nothing."""

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from core.archive.lock import exclusive
from core.archive.objects import LocalObjects
from core.errors import FewcastError
from tests.core.ingest.world import SLOTS, config, contents, run
from tests.core.killing import kill_and_finish


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_killed_at_random_moments_it_ends_bit_identical(root, rounds):
    undisturbed = config(root)
    run(undisturbed)
    ended, kills, partial = kill_and_finish(config(root), root, rounds, SLOTS * 2, contents)
    print(f"{partial} of {kills} kills left an archive half done, {len(ended)} archives were completed")
    assert all(archive == contents(undisturbed.archive) for archive in ended)
    assert partial >= max(1, rounds // 10)


def test_a_full_disk_is_one_clear_line_and_nothing_recorded_is_lost(root, monkeypatch):
    settings = config(root)
    real = LocalObjects.put
    left = [40]

    def put(self, key, data, over=None):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, data, over)

    monkeypatch.setattr(LocalObjects, "put", put)
    with pytest.raises(FewcastError, match=r"no space left for the archive .*free some space and run again"):
        run(settings)
    monkeypatch.undo()
    run(settings)
    whole = contents(settings.archive)
    shutil.rmtree(settings.archive)
    run(settings)
    assert contents(settings.archive) == whole


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of so many bytes, or gives the mounted one so many; skips where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(count: int) -> Path:
        how = "remount," if folder.is_mount() else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{how}size={count}", "tmpfs", str(folder)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount command here")
def test_a_disk_that_is_really_full_is_one_clear_line_and_then_nothing_is_lost(root, small_disk):
    undisturbed = config(root)
    run(undisturbed)
    whole = contents(undisturbed.archive)
    taken = sum(-(-len(data) // 4096) * 4096 for data in whole.values())
    settings = config(root, archive=str(small_disk(taken * 2 // 3) / "archive.zarr"))
    with pytest.raises(FewcastError, match=r"no space left for the archive .*free some space and run again") as caught:
        run(settings)
    assert "\n" not in str(caught.value)
    assert 0 < len(contents(settings.archive)) < len(whole)
    small_disk(taken * 3)
    run(settings)
    assert contents(settings.archive) == whole


def test_a_second_ingest_is_kept_out(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    with exclusive(LocalObjects(settings.archive)), pytest.raises(FewcastError, match="is being written"):
        run(config(root))
