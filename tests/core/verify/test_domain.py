"""The baselines that see the whole domain, on frames whose future is known."""

import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from core.archive import Archive
from core.episodes.frames import MISSING, Frames
from core.episodes.store import EpisodeStore
from core.verify.domain import _QUIET, StepsSettings, filled, optical_flow, steps
from core.verify.domain_rows import Job, _forecast

SCALE = {"kilometres_per_pixel": 4.0, "minutes_per_frame": 30.0}


@pytest.mark.parametrize("constant", [(0, 1, 2, 3), (3,), (2,)])
def test_steps_of_a_frame_without_variation_is_the_last_frame(constant):
    frames = np.random.default_rng(0).normal(size=(4, 30, 41))
    frames[list(constant)] = 1.5
    found = steps(frames, 3, 2, StepsSettings(), 0, **SCALE)
    assert found.shape == (2, 3, 30, 41)
    np.testing.assert_allclose(found, np.broadcast_to(frames[-1], found.shape), rtol=1e-6)


def _blob(shift):
    """A cloud on an uneven ground, moved by `shift` (y, x) pixels."""
    y, x = np.meshgrid(np.arange(60.0), np.arange(72.0), indexing="ij")
    y, x = y - shift[0], x - shift[1]
    return np.exp(-((y - 25) ** 2 + (x - 30) ** 2) / 40) - 0.7 * np.exp(-((y - 34) ** 2 + (x - 44) ** 2) / 25)


@pytest.mark.parametrize("step", [(0.0, 2.0), (1.5, -1.0)])
def test_optical_flow_carries_a_cloud_where_it_goes(step):
    frames = np.stack([_blob((t * step[0], t * step[1])) for t in range(6)])
    past, truth = frames[:4], frames[4:]
    error = np.abs(optical_flow(past, 2) - truth).mean((1, 2))
    stays = np.abs(past[-1] - truth).mean((1, 2))
    back = np.abs(past[[2, 1]] - truth).mean((1, 2))  # what the motion of the wrong sign would give
    assert (error < 0.25 * stays).all()
    assert (stays < back).all()


def test_steps_is_centred_on_the_cloud_that_moves():
    rng = np.random.default_rng(1)
    frames = np.stack([_blob((0, 2.0 * t)) for t in range(6)]) + 0.02 * rng.normal(size=(6, 60, 72))
    forecast = steps(frames[:4], 2, 4, StepsSettings(velocity_noise=False), 3, **SCALE)
    assert forecast.shape == (4, 2, 60, 72)
    error, stays = (np.abs(guess - frames[4:]).mean((1, 2)) for guess in (forecast.mean(0), frames[3]))
    assert (error < 0.8 * stays).all()
    assert float(forecast.std(0).mean()) > 0


def test_missing_pixels_come_from_the_frame_before_then_after_then_the_mean():
    frames = np.array([[[1.0, np.nan, np.nan]], [[np.nan, 2.0, np.nan]], [[3.0, np.nan, np.nan]]])
    np.testing.assert_array_equal(filled(frames), [[[1, 2, 0]], [[1, 2, 0]], [[3, 2, 0]]])
    assert np.isnan(frames).sum() == 6  # the frames themselves are left alone


def test_threads_that_are_quiet_at_once_leave_the_output_and_the_warnings_as_they_were(capsys):
    before, filters = sys.stdout, list(warnings.filters)
    entered, gone = threading.Event(), threading.Event()

    def last() -> None:
        with _QUIET:
            entered.set()
            gone.wait(10)
            print("not heard")

    thread = threading.Thread(target=last)
    with _QUIET:
        thread.start()
        entered.wait(10)
    gone.set()
    thread.join()
    assert sys.stdout is before
    assert warnings.filters == filters
    assert capsys.readouterr().out == ""


class _Frames:
    """Two channels, whose codes say which channel, slot and place they are of."""

    scale, offset = np.array([0.5, 2.0]), np.array([10.0, 20.0])
    archive = object.__new__(Archive)
    vars(archive).update(cadence_minutes=15, slot=lambda start: 8, grid=SimpleNamespace(spacing=(4000.0, 4000.0)))

    def codes(self, slots):
        y, x = np.meshgrid(np.arange(20), np.arange(30), indexing="ij")
        frames = [[100 * c + 10 * (slot - 8) + 40 * np.sin(x / 4) + y for c in (1, 2)] for slot in slots]
        codes = np.array(frames).round().astype(np.uint16)
        codes[-1, 1, 3, 4] = MISSING
        return codes


def test_a_domain_forecast_is_normalised_and_keeps_lead_and_channel_in_order(monkeypatch):
    frames = _Frames()
    monkeypatch.setattr(Frames, "open", lambda *_: frames)
    monkeypatch.setattr("core.verify.domain_rows.optical_flow", lambda values, leads: np.stack([values[-1]] * leads))
    mean, std = np.array([5.0, 7.0]), np.array([2.0, 3.0])
    store = object.__new__(EpisodeStore)
    store.spec = SimpleNamespace(channels=("ir", "wv"), lead_minutes=(30, 60, 90), input_frames=2, target_frames=3)
    store.normalisation = SimpleNamespace(mean=mean, std=std)
    job = Job("", "", "optical_flow", StepsSettings(), 1, 0, ())
    found = _forecast(job, store, np.datetime64("2024-06-01"))
    assert found.shape == (1, 6, 20, 30)
    newest = frames.codes([6, 8])[-1].astype(float)
    newest[newest == MISSING] = np.nan
    for channel in range(2):
        kelvin = newest[channel] * frames.scale[channel] + frames.offset[channel]
        expected = (kelvin - mean[channel]) / std[channel]
        for lead in range(3):
            np.testing.assert_allclose(found[0, 2 * lead + channel], expected)
