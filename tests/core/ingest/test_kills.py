"""What a kill, a full disk and a second writer cost: nothing."""

import errno
import shutil

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
    ended, partial = kill_and_finish(config(root), root, rounds, SLOTS * 2, contents)
    print(f"{partial} of {rounds} kills left an archive half done, {len(ended)} archives were completed")
    assert all(archive == contents(undisturbed.archive) for archive in ended)
    assert partial >= max(1, rounds // 10)


def test_a_full_disk_is_one_clear_line_and_nothing_recorded_is_lost(root, monkeypatch):
    settings = config(root)
    real = LocalObjects.put
    left = [40]

    def put(self, key, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, data)

    monkeypatch.setattr(LocalObjects, "put", put)
    with pytest.raises(FewcastError, match=r"no space left for the archive .*free some space and run again"):
        run(settings)
    monkeypatch.undo()
    run(settings)
    whole = contents(settings.archive)
    shutil.rmtree(settings.archive)
    run(settings)
    assert contents(settings.archive) == whole


def test_a_second_ingest_is_kept_out(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    with exclusive(LocalObjects(settings.archive)), pytest.raises(FewcastError, match="is being written"):
        run(config(root))
