"""`fewcast`: every flow by hand, with its preset, its progress and its result on the terminal."""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from core.config import EvaluationConfig, PipelineConfig, evaluation, load, scorecard_name
from core.errors import FewcastError

PRESETS = Path(__file__).parent / "presets"
FLOWS = {
    "pipeline": "granules to scorecard: ingest, episodes, train and evaluate",
    "ingest": "satellite granules to archive",
    "episodes": "archive to episodes; inspect or validate a store of them",
    "train": "episodes to prior",
    "evaluate": "prior and held-out episodes to scorecard",
    "nowcast": "prior and the newest frames to a forecast",
    "sweep": "train and validate every combination of some settings",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did all that was asked, 1 with one line on stderr for what the user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # `episodes` is the word for the stage and for what it leaves, so its looks and checks are commands of their own.
    of_store = given[:1] == ["episodes"] and given[1:2] in (["inspect"], ["validate"])
    options = _store_parser().parse_args(given[1:]) if of_store else _parser().parse_args(given)
    try:
        # Each command imports what it needs: prefect, torch and mlflow take seconds.
        module, function = options.run.split(":")
        with _sigterm_as_interrupt():
            code: int = getattr(import_module(module), function)(options)
        return code
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as end:
        print("fewcast: interrupted; the same command goes on from here", file=sys.stderr)
        return 143 if isinstance(end, _TerminatedError) else 130


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, as an exception."""


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """End as on Ctrl-C, so that Prefect's server and whatever else was started ends too: the default leaves them."""

    def interrupt(number: int, frame: object) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    changes = list(options.set)
    model, episodes = getattr(options, "model", ""), getattr(options, "episodes", "")
    if model or episodes:
        # A scorecard of another model, or of other episodes, would take the place of the preset's own.
        given = {key: value for key, value in (("run", model), ("episodes", episodes)) if value}
        changes += [f"evaluate.{key}={json.dumps(value)}" for key, value in given.items()]
        asked = load(path, changes).evaluate
        scorecard = f"{asked.scorecard}/{scorecard_name(asked.run, asked.episodes)}"
        return load(path, [f"evaluate.scorecard={json.dumps(scorecard)}", *changes])
    if (region := getattr(options, "region", None)) is None:
        return load(path, changes)
    # A folder holds forecasts of one area, since they are named by their starts alone.
    output = f"{load(path, changes).forecast.output}/{re.sub(r'[^a-z0-9.,-]+', '-', region.lower())}"
    return load(path, [f"forecast.output={json.dumps(output)}", *changes, f"forecast.region={json.dumps(region)}"])


def read_evaluation(options: argparse.Namespace) -> EvaluationConfig | None:
    """The config of `evaluate --model URI --episodes URL`; None for other commands, and where a preset is named."""
    if options.command != "evaluate" or options.preset or options.config:
        return None
    if not (options.model and options.episodes):
        raise FewcastError(
            "it is not said what to evaluate",
            found=f"--model {options.model or '(none)'}, --episodes {options.episodes or '(none)'}, no preset",
            mend="give --preset NAME or --config FILE, or both --model URI and --episodes URL",
        )
    return evaluation(options.model, options.episodes, options.set)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fewcast", description="Few-shot probabilistic satellite nowcasting.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in FLOWS.items():
        stage = commands.add_parser(name, help=text, description=text)
        which = stage.add_mutually_exclusive_group(required=name != "evaluate")
        which.add_argument("--preset", help="a named run that comes with fewcast")
        which.add_argument("--config", metavar="FILE", help="a TOML file of your own")
        stage.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="change a key (repeatable)")
        stage.set_defaults(run="flows.commands:run_flow")
        if name == "episodes":
            stage.epilog = "Or look at a store: `fewcast episodes inspect URL`, `fewcast episodes validate URL`."
        if name == "train":
            stage.add_argument("--probe", action="store_true", help="only suggest a learning rate and a KL weight")
        if name == "evaluate":
            stage.add_argument("--model", metavar="URI", default="",
                               help="a run's directory or a registered model, as models:/NAME@ALIAS")  # fmt: skip
            stage.add_argument(
                "--episodes", metavar="URL", default="", help="an episode store; with --model alone, too"
            )
        if name == "nowcast":
            stage.add_argument("--region", metavar="AREA",
                               help="a named area (korea, ...) or west,south,east,north in degrees; "
                               "its forecasts have a folder of their own")  # fmt: skip
        if name == "sweep":
            stage.add_argument("--grid", metavar="KEY=VALUE,...", action="append", required=True,
                               help="values of a key of training (repeatable)")  # fmt: skip
    archive = _add_checks(
        commands, "archive", "look at an archive, check it, or mend it", ("inspect", "validate", "repair")
    )
    archive.add_argument("--picture", default="", help="with inspect: write a quick look at the newest frame here")
    runs = commands.add_parser("runs", help="compare two training runs").add_subparsers(dest="action", required=True)
    compare = runs.add_parser("compare", help="what differs between two runs, and by how much")
    compare.add_argument("first", help="an MLflow run id, or a run's directory")
    compare.add_argument("second")
    compare.add_argument("--uri", default="", help="MLflow tracking URI, if it is another than the default")
    compare.set_defaults(run="flows.commands:run_compare")
    ui = commands.add_parser("ui", help="the Prefect and MLflow pages over what is there; Ctrl-C ends them")
    ui.set_defaults(run="flows.commands:run_ui")
    reference = commands.add_parser(
        "config", help="every key of the configuration, with type, bounds, default and meaning"
    )
    reference.add_argument("key", nargs="?", default="", help="show only the keys that start with this")
    reference.set_defaults(run="flows.commands:run_reference")
    return parser


def _store_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fewcast episodes", description="Look at an episode store, or check it.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    looks = actions.add_parser("inspect", help="counts by split and region, distributions, leak check, pictures")
    looks.add_argument("--pictures", metavar="FOLDER", default="", help="write a map of the contexts and a sheet here")
    checks = actions.add_parser("validate", help="read every episode, compare digests, prove that there are no leaks")
    checks.add_argument("--rebuild", action="store_true", help="cut damaged episodes anew from the archive")
    for action in (looks, checks):
        action.add_argument("url", metavar="URL", help="the store: a folder or s3://...")
        action.set_defaults(run="flows.commands:check_store")
    return parser


def _add_checks(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str,
                actions: Sequence[str]) -> argparse.ArgumentParser:  # fmt: skip
    checks: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    checks.add_argument("action", choices=actions)
    checks.add_argument("url", metavar="URL")
    checks.set_defaults(run=f"flows.commands:check_{name}")
    return checks


if __name__ == "__main__":
    sys.exit(main())
