"""What a row of a scorecard is: its tables and pictures ask this, and never its display name."""

from typing import Literal

Kind = Literal["optimum", "baseline", "learner", "ensemble", "shuffled", "support_curve", "step_curve"]
"""The best there is; what learned nothing; a run, or several; an adaptation to another place's support; a point of a
few-shot curve: another number of support windows, or of inner steps."""
MAIN = ("learner", "ensemble")
"""What a scorecard is about."""
CURVES = ("support_curve", "step_curve")
CONTROLS = ("shuffled", *CURVES)
"""What would crowd a picture of the learners."""
