"""Means of a run's metrics between two reports."""

import pytest

from core.training.pace import Pace


def test_a_metric_that_some_steps_lack_is_the_mean_over_those_that_have_it():
    """As where the pooled steps end between two reports: they have no KL."""
    pace = Pace(lambda: 0.0, {}, 0.0)
    pace.count({"loss": 4.0})
    pace.count({"loss": 2.0, "kl": 0.5})
    assert pace.read() == pytest.approx({"loss": 3.0, "kl": 0.5, "steps_per_second": 2e9})
    pace.count({"loss": 1.0})
    assert "kl" not in pace.read()
