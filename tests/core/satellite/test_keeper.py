"""The airlock: what kills, stops or floods it is a damaged file, and the next file is read as if nothing had been."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core.errors import FewcastError
from core.satellite import airlock, hdf5, keeper
from core.satellite.granule import CorruptGranule, Reason, UnavailableGranule
from tests.core.satellite import makers, test_fuzz, test_gk2a

ROOT = Path(__file__).parents[3]
GOOD = makers.gk2a("ir105", test_gk2a.TIME, test_gk2a.raw((40, 50)))
PIXELS = "image_pixel_values"


@pytest.fixture
def wards(monkeypatch):
    """A keeper of our own, so that other tests' children stay out of it."""
    own = keeper.Keeper()
    monkeypatch.setattr(hdf5, "KEEPER", own)
    yield own
    for child in own.idle:
        child.end()


@pytest.mark.parametrize(("end", "told"), [(signal.SIGSEGV, "crashed"), (signal.SIGPROF, "hung")])
def test_a_file_on_which_the_library_ends_is_damaged_and_the_next_is_read(wards, monkeypatch, end, told):
    """A signal stands for the library's crash or loop, which no file is sure to bring about in every release."""
    crashing = test_fuzz.mutate(GOOD, np.random.default_rng(0))
    real = keeper._Child.ask

    def kill_first(child, asked, content):
        if content.content == crashing:
            child.process.send_signal(end)
        return real(child, asked, content)

    monkeypatch.setattr(keeper._Child, "ask", kill_first)
    hdf5.opened(GOOD)
    (before,) = (child.process.pid for child in wards.idle)
    with pytest.raises(CorruptGranule, match=told) as caught:
        wards.ask({}, keeper.Memory(crashing))
    assert caught.value.reason is Reason.DAMAGED
    assert wards.idle == []
    np.testing.assert_array_equal(
        hdf5.read(hdf5.opened(GOOD)[PIXELS], slice(None), slice(None)), test_gk2a.raw((40, 50))
    )
    assert wards.idle[0].process.pid != before


def test_a_child_that_another_has_ended_is_no_damage(wards, monkeypatch):
    real, ended = keeper._Child.ask, []

    def kill_once(child, asked, content):
        if not ended:
            ended.append(child)
            child.process.kill()
        return real(child, asked, content)

    monkeypatch.setattr(keeper._Child, "ask", kill_once)
    assert PIXELS in hdf5.opened(GOOD)
    assert ended


def test_a_description_that_takes_too_long_ends_the_process():
    code = (
        "from core.satellite import airlock\n"
        "airlock.DESCRIPTION_SECONDS = 0.2\n"
        "airlock.opened = lambda content: max(iter(int, 1))\n"  # an endless loop that lets no signal handler in
        "airlock.answer({}, b'')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == -signal.SIGPROF


def test_a_file_on_which_the_library_is_silent_is_damaged(wards):
    child = wards._lent()
    child.patience = 0.5
    wards.idle.append(child)
    os.kill(child.process.pid, 19)  # stopped, as in an endless loop
    with pytest.raises(CorruptGranule, match="hung"):
        hdf5.opened(GOOD)
    assert PIXELS in hdf5.opened(GOOD)


def test_many_threads_share_a_few_children(wards):
    contents = [makers.gk2a("ir105", test_gk2a.TIME, test_gk2a.raw((40, 50), seed=i)) for i in range(12)]

    def pixels(content):
        return hdf5.read(hdf5.opened(content)[PIXELS], slice(None), slice(None))

    with ThreadPoolExecutor(8) as pool:
        for i, values in enumerate(pool.map(pixels, contents)):
            np.testing.assert_array_equal(values, test_gk2a.raw((40, 50), seed=i))
    assert 1 <= len(wards.idle) <= keeper.MOST_CHILDREN


def test_a_source_that_fails_in_the_middle_is_no_damage(wards):
    class Failing(keeper.Memory):
        asked = 0

        def piece(self, start, count):
            self.asked += 1
            if self.asked > 1:
                raise UnavailableGranule(Reason.UNREACHABLE, "gone")
            return super().piece(start, count)

    class Remote(Failing):
        """Not held in memory as far as the keeper can tell."""

    content = Remote(GOOD)
    content.size = keeper.WHOLE_BYTES + 1
    with pytest.raises(UnavailableGranule):
        hdf5.opened(content)
    assert PIXELS in hdf5.opened(GOOD)


def test_children_end_with_their_parent():
    code = (
        "from core.satellite import hdf5, keeper; from tests.core.satellite.test_keeper import GOOD; hdf5.opened(GOOD);"
        "print(keeper.KEEPER.idle[0].process.pid, flush=True); import os; os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    pid = int(run.stdout)
    gone = threading.Event()
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            gone.set()
            break
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # dead, and nobody has asked
            gone.set()
            break
        gone.wait(0.1)
    assert gone.is_set()


def test_links_to_elsewhere_are_not_followed(tmp_path):
    import h5py

    (tmp_path / "secret.h5").write_bytes(GOOD)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file[PIXELS] = h5py.ExternalLink(str(tmp_path / "secret.h5"), PIXELS)
        file["soft"] = h5py.SoftLink("/elsewhere")
    told = json.loads(airlock.answer({}, (tmp_path / "link.h5").read_bytes())[1])
    assert told["variables"] == {}


def test_an_airlock_that_does_not_start_is_one_clear_line(wards, monkeypatch):
    monkeypatch.setattr(keeper.sys, "executable", "/bin/false")
    with pytest.raises(FewcastError, match="does not start: found exit status 1") as caught:
        hdf5.opened(GOOD)
    assert "\n" not in str(caught.value)


def test_a_process_more_than_there_may_be_is_one_clear_line(wards, monkeypatch):
    def full(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(keeper.subprocess, "Popen", full)
    with pytest.raises(FewcastError, match=r"does not start: found .*unavailable; check .*processes") as caught:
        hdf5.opened(GOOD)
    assert "\n" not in str(caught.value)


def test_a_user_with_no_large_pipes_left_reads_all_the_same(wards, monkeypatch):
    real = keeper.subprocess.Popen

    def small_pipes(*arguments, pipesize=-1, **more):
        if pipesize > 0:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real(*arguments, **more)

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(keeper.subprocess, "Popen", small_pipes)
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert PIXELS in hdf5.opened(GOOD)
