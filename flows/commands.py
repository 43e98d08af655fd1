"""What each command does."""

import logging
import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from rich.console import Console

from core.config import EvaluationConfig, PipelineConfig, TrackingConfig
from core.report import Report, Silent
from flows import embedded
from flows.cli import read_config, read_evaluation
from flows.logs import wants_json


def run_flow(options: Namespace) -> int:
    """Run a flow in this process, in front of the user."""
    embedded.prepare_clients()
    config = read_evaluation(options) or read_config(options)
    if isinstance(config, PipelineConfig) and options.command == "train":
        if options.probe:
            return probe(config)
        if int(os.environ.get("RANK", "0")):
            return follow(config)
    embedded.prepare()
    logging.captureWarnings(True)  # filters would not do: MLflow puts its own before them
    from tasks.reporting import TERMINAL

    console = Console(stderr=True)
    if not wants_json():  # then the log has every word, and the terminal is for a machine
        TERMINAL.set(console)
        logging.getLogger("tasks").addHandler(OnConsole(console))
    call, places = _flow(options, config)
    with embedded.in_process():
        result = call()
    for name, place in places.items():
        print(f"{name:<10} {place}")
    print(f"{'pages':<10} fewcast ui")
    if options.command == "train":
        print(f"{'time':<10} {account(result.seconds)}")
    if options.command in ("pipeline", "evaluate"):
        print(result.terminal)
    if options.command == "sweep":
        print(result, end="")
    return 0


def _flow(options: Namespace, config: PipelineConfig | EvaluationConfig) -> tuple[Callable[[], Any], dict[str, str]]:
    """The flow of a command, and where it leaves what."""
    from flows.episodes import episodes
    from flows.evaluate import evaluate
    from flows.ingest import ingest
    from flows.nowcast import nowcast
    from flows.pipeline import pipeline
    from flows.sweep import sweep
    from flows.train import SEGMENT_STEPS, train
    from tasks.tracking import tracking_uri

    scorecard = {"scorecard": config.evaluate.scorecard}
    mlflow = {"mlflow": f"{tracking_uri(config.tracking)}, experiment {config.tracking.experiment}"}
    if isinstance(config, EvaluationConfig):
        return (lambda: evaluate(config.evaluate, config.tracking)), scorecard | mlflow
    # The other ranks of a torchrun know no segments.
    segment_steps = 0 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else SEGMENT_STEPS
    archive = {"archive": config.ingest.archive}
    store = {"episodes": config.episodes.store}
    run = {"run": config.train.run}
    calls: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
        "pipeline": (lambda: pipeline(config), archive | store | run | scorecard | mlflow),
        "ingest": (lambda: ingest(config.ingest), archive),
        "episodes": (lambda: episodes(config.episodes), store),
        "train": (lambda: train(config.train, config.tracking, segment_steps), run | mlflow),
        "evaluate": (lambda: evaluate(config.evaluate, config.tracking), scorecard | mlflow),
        "nowcast": (lambda: nowcast(config.forecast, config.tracking), {"forecasts": config.forecast.output}),
        "sweep": (lambda: sweep(config, options.grid), {"runs": f"{config.root}/sweep"} | mlflow),
    }
    return calls[options.command]


def account(seconds: dict[str, float]) -> str:
    """Where the time of this process went, from its very start."""
    wall = time.time() - psutil.Process().create_time()
    spent = seconds | {"everything around": wall - sum(seconds.values())}
    parts = (f"{what} {share:.1%}" for what, part in spent.items() if (share := part / wall) >= 0.0005)
    return f"{wall / 60:.1f} minutes: {', '.join(parts)}"


def follow(config: PipelineConfig) -> int:
    """Train as a rank of torchrun that does not lead: the leader alone reports, to the terminal, Prefect and MLflow."""
    from core.training.train import train
    from tasks.stopping import run_until_stopped

    here = config.train
    if here.fork:
        # Here and not above: prefect takes seconds to import, and this rank does without.
        from tasks.train import located

        here = located(here, config.tracking)
    run_until_stopped(lambda stop: train(here, stop=stop))
    return 0


def probe(config: PipelineConfig) -> int:
    """Print a suggested learning rate and KL weight."""
    from core.training.probe import probe as probe_training
    from tasks.train import located

    with _on_terminal("probe") as report:
        suggested = probe_training(located(config.train, config.tracking, report), report=report)
    for line in suggested.lines():
        print(line)
    return 0


@contextmanager
def _on_terminal(stage: str) -> Iterator[Report]:
    """The report of a command that runs no flow."""
    if wants_json():  # then the terminal is for a machine
        yield Silent()
        return
    from tasks.terminal import Terminal

    terminal = Terminal(stage, Console(stderr=True))
    try:
        yield terminal
    finally:
        terminal.close()


def check_archive(options: Namespace) -> int:
    """Inspect, validate or repair an archive; 1 where a problem is left, which a repair leaves none of."""
    from core import archive

    if options.action == "inspect":
        found = archive.inspect(options.url)
    else:
        with _on_terminal(options.action) as report:
            found = getattr(archive, options.action)(options.url, report=report)
    print(found.markdown)
    if options.action == "inspect" and options.picture:
        archive.quick_look(options.url).savefig(options.picture, dpi=120, bbox_inches="tight")
        print(f"picture    {options.picture}")
    return 1 if getattr(found, "problems", ()) and options.action == "validate" else 0


def check_store(options: Namespace) -> int:
    """Inspect or validate an episode store; 1 where it is not valid."""
    from core import episodes

    if options.action == "inspect":
        found = episodes.inspect(options.url)
        print(found)
        if options.pictures:
            for path in episodes.draw(options.url, options.pictures):
                print(f"picture    {path}")
        return 1 if found.leaks else 0
    with _on_terminal("validate") as report:
        checked = episodes.validate(options.url, rebuild_damaged=options.rebuild, report=report)
    print(checked)
    return 0 if checked.valid else 1


def run_compare(options: Namespace) -> int:
    """Print what differs between two runs."""
    embedded.prepare_clients()
    from tasks.tracking import compare

    rows = [("", options.first, options.second, "difference")]
    rows += compare(options.first, options.second, TrackingConfig(uri=options.uri))
    widths = [min(40, max(len(row[column]) for row in rows)) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def run_ui(options: Namespace) -> int:
    """Open the Prefect and MLflow pages until Ctrl-C."""
    embedded.prepare()
    from flows.pages import serve_pages

    return serve_pages()


def run_reference(options: Namespace) -> int:
    """List every key that a preset may hold."""
    from flows.reference import print_reference

    print_reference(options.key)
    return 0


class OnConsole(logging.Handler):
    """Warnings of ours on the terminal, beside the bar and not through it."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"{'warning':<10} {record.getMessage()}", highlight=False, markup=False, soft_wrap=True)
