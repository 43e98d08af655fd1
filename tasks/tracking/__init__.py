"""What MLflow remembers of a run. The only package that imports mlflow, and it does so off the main thread.

A run is written to a journal on local disk and delivered from there by a thread. The tracking server may be slow, away
or changed for another: training does not notice, and what was not delivered is, the next time that the run goes on.
"""

from tasks.tracking.compare import compare
from tasks.tracking.journal import Delivered, is_delivered, is_finished, read_delivered, start_afresh
from tasks.tracking.local import BEST, is_in_mlflow, local_run, registered_run, training_run
from tasks.tracking.page import model_page, run_page
from tasks.tracking.run import TrackedRun
from tasks.tracking.uri import tracking_uri

__all__ = [
    "BEST",
    "Delivered",
    "TrackedRun",
    "compare",
    "is_delivered",
    "is_finished",
    "is_in_mlflow",
    "local_run",
    "model_page",
    "read_delivered",
    "registered_run",
    "run_page",
    "start_afresh",
    "tracking_uri",
    "training_run",
]
