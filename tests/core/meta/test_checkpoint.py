"""Checkpoints: whole or absent, verified, and never unpickled."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import FewcastError
from core.meta import checkpoint
from core.report import Silent


class Messages(Silent):
    def __init__(self):
        self.texts = []

    def message(self, text):
        self.texts.append(text)


def tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "mean.weight": torch.randn(3, 5, generator=generator),
        "a": torch.zeros(0),
        "moment": torch.randn(7, 2, generator=generator, dtype=torch.float64).T,  # not contiguous
        "count": torch.tensor(2**53 + 1),
    }


def assert_same(found, expected):
    assert list(found) == list(expected)  # in the same order
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_was_saved_comes_back_bit_by_bit(tmp_path):
    meta = {"elapsed": 0.1 + 0.2, "best": None, "nested": {"a": [1, "é"]}}
    checkpoint.save(tmp_path / "run", 40, tensors(), meta)
    found = checkpoint.load_latest(tmp_path / "run")
    assert (found.step, found.meta) == (40, meta)
    assert_same(found.tensors, tensors())


def test_tensors_that_share_memory_are_saved_each_by_itself(tmp_path):
    """As a first state's moments do, which a rank saves that is left alone in the first step."""
    zeros = torch.zeros(2, 3)
    checkpoint.save(tmp_path, 0, {"first": zeros, "second": zeros}, {})
    assert_same(checkpoint.load(tmp_path, 0).tensors, {"first": zeros, "second": zeros})


def test_an_empty_or_missing_run_has_no_latest(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "none") is None


def test_the_last_n_and_those_to_keep_stay(tmp_path):
    for step in (10, 20, 30, 40, 50):
        checkpoint.save(tmp_path, step, tensors(), {}, keep_last=2, keep=[20])
    assert checkpoint.steps(tmp_path) == [20, 40, 50]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step_00000020", "step_00000040", "step_00000050"]


def test_a_torn_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path):
    for step in (10, 20):
        checkpoint.save(tmp_path, step, tensors(), {}, keep_last=2)
    (tmp_path / "step_00000020" / "tensors.safetensors").write_bytes(b"")
    checkpoint.save(tmp_path, 15, tensors(), {}, keep_last=1)
    assert checkpoint.steps(tmp_path) == [15]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 10, tensors(0), {"n": 0})
    checkpoint.save(tmp_path, 10, tensors(1), {"n": 1})
    assert_same(checkpoint.load(tmp_path, 10).tensors, tensors(1))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_found_and_the_one_before_is_used(tmp_path_factory, data):
    """Truncate a file anywhere, or change any one byte of it: never accepted, never another exception."""
    run = tmp_path_factory.mktemp("run")
    checkpoint.save(run, 1, tensors(1), {"n": 1})
    checkpoint.save(run, 2, tensors(2), {"n": 2})
    file = run / "step_00000002" / data.draw(st.sampled_from(["tensors.safetensors", "checkpoint.json"]))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    report = Messages()
    found = checkpoint.load_latest(run, report=report)
    if found.step == 2:  # a change of white space in the JSON changes nothing
        assert found.meta == {"n": 2}
        assert_same(found.tensors, tensors(2))
    else:
        assert len(report.texts) == 1
        assert "step_00000002" in report.texts[0]
        assert_same(found.tensors, tensors(1))


def test_all_bad_is_an_error_and_nothing_is_deleted(tmp_path):
    checkpoint.save(tmp_path, 3, tensors(), {})
    (tmp_path / "step_00000003" / "tensors.safetensors").unlink()
    with pytest.raises(FewcastError, match=r"step_00000003 cannot be used: found tensors\.safetensors"):
        checkpoint.load_latest(tmp_path)
    assert checkpoint.steps(tmp_path) == [3]


def test_a_swapped_but_valid_tensor_file_is_refused(tmp_path):
    checkpoint.save(tmp_path, 3, tensors(), {})
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "step_00000003" / "tensors.safetensors")
    with pytest.raises(FewcastError, match="altered"):
        checkpoint.load(tmp_path, 3)


def test_another_format_is_named(tmp_path):
    checkpoint.save(tmp_path, 3, tensors(), {})
    file = tmp_path / "step_00000003" / "checkpoint.json"
    body = json.loads(file.read_text())
    body.pop("sha256")
    body["format"] = 99
    file.write_text(json.dumps(body | {"sha256": checkpoint._digest(body)}))
    with pytest.raises(FewcastError, match="format 99"):
        checkpoint.load(tmp_path, 3)


def test_another_architecture_is_named(tmp_path):
    checkpoint.save(tmp_path, 3, tensors(), {})
    found = checkpoint.load(tmp_path, 3)
    checkpoint.require_same_shapes(found, tensors(5))
    with pytest.raises(FewcastError, match=r"mean\.weight \(3, 5\) float32 in it and \(3, 6\) float32 in this"):
        checkpoint.require_same_shapes(found, tensors() | {"mean.weight": torch.zeros(3, 6)})
    with pytest.raises(FewcastError, match="extra absent in it"):
        checkpoint.require_same_shapes(found, tensors() | {"extra": torch.zeros(1)})


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, tensors(1), {})

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FewcastError, match="No space left on device; free some space"):
        checkpoint.save(tmp_path, 2, tensors(2), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_00000001"]


def test_a_run_has_one_owner_and_is_free_when_it_is_gone(tmp_path):
    with checkpoint.owned(tmp_path), pytest.raises(FewcastError, match="is being trained"), checkpoint.owned(tmp_path):
        pass
    with checkpoint.owned(tmp_path):
        pass


_WRITER = """
import sys, torch
from pathlib import Path
from core.meta import checkpoint
from core.report import Silent
run = Path(sys.argv[1])
for step in range(1, 100_000):
    checkpoint.save(run, step, {"x": torch.full((20_000,), float(step))}, {"n": step}, keep_last=2)
    print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(40, marks=pytest.mark.soak)])
def test_killed_while_writing_no_acknowledged_checkpoint_is_lost_or_torn(tmp_path, kills):
    wait = torch.Generator().manual_seed(1)
    for _ in range(kills):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()
        time.sleep(0.3 * float(torch.rand((), generator=wait)))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int(([line for line in writer.communicate()[0].split() if line] or ["1"])[-1])
        found = checkpoint.load_latest(tmp_path, report=Messages())
        assert found.step >= acknowledged
        assert (found.tensors["x"] == found.step).all()
        assert found.meta == {"n": found.step}
        with checkpoint.owned(tmp_path):
            assert [entry.name for entry in Path(tmp_path).iterdir() if entry.name.startswith(".")] == [".lock"]
        for step in checkpoint.steps(tmp_path):
            checkpoint._discard(tmp_path / checkpoint._name(step))
