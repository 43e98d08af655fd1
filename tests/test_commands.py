"""What the guides, the Makefile and the container files tell a reader to run, or to open, is there."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows import cli

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", ROOT / ".ci/run",
    *sorted((ROOT / "docs").glob("*.md")), *sorted(path for path in (ROOT / "infra").rglob("*") if path.is_file()),
]  # fmt: skip
PLACES = re.compile(r"(?<![\w/.-])(?:core|tasks|flows|deployments|infra|tests|docs)/[\w./-]*[^\W_](?!_?\*)\b")
MADE_BY_HAND = ("infra/.env", "infra/k8s/secrets.env")


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_every_module_and_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    modules = set(re.findall(r"python -m ([\w.]+)", text))
    assert {name for name in modules if not find_spec(name)} == set()
    named = set(PLACES.findall(text)) - {*MADE_BY_HAND}
    assert {place for place in named if not (ROOT / place).exists()} == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".md"], ids=identify)
def test_every_command_is_one_that_fewcast_knows(path: Path) -> None:
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", path.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines() if language in ("", "sh") else ():
            program, *words = [word for word in shlex.split(line, comments=True) if not word.startswith("$")] or [""]
            if program == "fewcast":
                of_store = words[:1] == ["episodes"] and words[1:2] in (["inspect"], ["validate"])
                parser = cli._store_parser() if of_store else cli._parser()
                parser.parse_args(words[1:] if of_store else words)  # ends the test where it knows no such words
