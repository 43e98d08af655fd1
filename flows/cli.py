"""`fewcast`: every flow by hand, with its preset, its progress and its result on the terminal."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from core.config import PipelineConfig, load
from core.errors import FewcastError
from flows import embedded

PRESETS = Path(__file__).parent / "presets"
STAGES = {
    "pipeline": "granules to scorecard: all of the below",
    "ingest": "satellite granules to archive",
    "episodes": "archive to episodes",
    "train": "episodes to prior",
    "evaluate": "prior and held-out episodes to scorecard",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did all that was asked, 1 with one line on stderr for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("fewcast: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def find_preset(name: str) -> Path:
    """The file of a preset by its name."""
    path = PRESETS / f"{name}.toml"
    if not path.is_file() or path.parent != PRESETS:
        known = ", ".join(sorted(file.stem for file in PRESETS.glob("*.toml")))
        raise FewcastError("no such preset", found=repr(name), mend=f"choose one of {known}, or give --config FILE")
    return path


def read_config(options: argparse.Namespace) -> PipelineConfig:
    """The config that --preset or --config names, with --set on top."""
    path = Path(options.config) if options.config else find_preset(options.preset)
    return load(path, options.set)


def run_stage(options: argparse.Namespace) -> int:
    """Run a stage's flow in this process, in front of the user."""
    config = read_config(options)
    embedded.prepare()
    warnings.filterwarnings("ignore", module=r"(prefect|mlflow|pydantic|websockets)\b.*")
    # prefect takes seconds to import: only now, when it is needed.
    from flows.episodes import episodes
    from flows.evaluate import evaluate
    from flows.ingest import ingest
    from flows.pipeline import pipeline
    from flows.train import train
    from tasks.reporting import TERMINAL

    console = Console(stderr=True)
    TERMINAL.set(console)
    logging.getLogger("tasks").addHandler(OnConsole(console))
    calls: dict[str, Any] = {
        "pipeline": lambda: pipeline(config),
        "ingest": lambda: ingest(config.ingest),
        "episodes": lambda: episodes(config.episodes),
        "train": lambda: train(config.train, config.tracking),
        "evaluate": lambda: evaluate(config.evaluate, config.tracking),
    }
    with embedded.in_process():
        result = calls[options.command]()
    print_places(config, options.command)
    if options.command in ("pipeline", "evaluate"):
        print(result.terminal)
    return 0


class OnConsole(logging.Handler):
    """Warnings of ours on the terminal, beside the bar and not through it."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"{'warning':<10} {record.getMessage()}", highlight=False, markup=False, soft_wrap=True)


def print_places(config: PipelineConfig, command: str) -> None:
    """Say where everything is."""
    from tasks.tracking import tracking_uri

    places = {
        "ingest": ("archive", config.ingest.archive),
        "episodes": ("episodes", config.episodes.store),
        "train": ("run", config.train.run),
        "evaluate": ("scorecard", config.evaluate.scorecard),
    }
    for stage, (name, place) in places.items():
        if command in (stage, "pipeline"):
            print(f"{name:<10} {place}")
    if command != "ingest" and command != "episodes":
        print(f"{'mlflow':<10} {tracking_uri(config.tracking)}, experiment {config.tracking.experiment}")
    print(f"{'pages':<10} fewcast ui")


def run_ui(options: argparse.Namespace) -> int:
    """Open the Prefect and MLflow pages until Ctrl-C."""
    embedded.prepare()
    from flows.pages import serve_pages

    return serve_pages()


def run_reference(options: argparse.Namespace) -> int:
    """List every key that a preset may hold."""
    from flows.reference import print_reference

    print_reference(options.key)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fewcast", description="Few-shot probabilistic satellite nowcasting.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        which = stage.add_mutually_exclusive_group(required=True)
        which.add_argument("--preset", help="a named run that comes with fewcast")
        which.add_argument("--config", metavar="FILE", help="a TOML file of your own")
        stage.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[], help="change one key (repeatable)"
        )
        stage.set_defaults(run=run_stage)
    ui = commands.add_parser("ui", help="the Prefect and MLflow pages over what is there; Ctrl-C ends them")
    ui.set_defaults(run=run_ui)
    reference = commands.add_parser("config", help="every key of a preset, with type, bounds, default and meaning")
    reference.add_argument("key", nargs="?", default="", help="show only the keys that start with this")
    reference.set_defaults(run=run_reference)
    return parser


if __name__ == "__main__":
    sys.exit(main())
