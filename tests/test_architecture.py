"""The house rules that a machine can check."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from core.config import PipelineConfig, load
from flows.reference import rows

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "tasks", "flows", "deployments")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PRESETS = sorted((ROOT / "flows" / "presets").glob("*.toml"))


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, by its dotted name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_imports_run_one_way() -> None:
    command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    found = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout  # in a process of its own: it disables every logger there is


@pytest.mark.parametrize("path", SOURCES + sorted((ROOT / "tests").rglob("*.py")), ids=identify)
def test_a_file_has_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_a_file_begins_by_saying_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", [p for p in SOURCES if p.is_relative_to(ROOT / "core")], ids=identify)
def test_core_never_prints(path: Path) -> None:
    assert "print" not in {name for name, _ in calls(path)}


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_nothing_unpickles(path: Path) -> None:
    for name, call in calls(path):
        assert name not in ("pickle.load", "pickle.loads", "torch.load", "joblib.load")
        assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in call.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_no_stub(path: Path) -> None:
    text = path.read_text()
    assert not any(word in text for word in ("raise NotImplementedError", "TODO", "FIXME"))


def test_every_package_is_a_package_and_no_test_folder_is() -> None:
    folders = {path.parent for path in SOURCES}
    assert all((folder / "__init__.py").exists() for folder in folders)
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_file_bears_a_package_s_name() -> None:
    assert not [path for path in SOURCES if path.stem in PACKAGES]


def test_every_key_of_the_configuration_says_what_it_is() -> None:
    for key, _, _, _, meaning in rows():
        assert meaning.endswith("."), key


def test_every_number_of_the_configuration_is_bounded() -> None:
    unbounded = [key for key, kind, bounds, _, _ in rows() if kind in ("int", "float") and not bounds]
    assert not unbounded


def test_no_unknown_key_passes_anywhere_in_the_configuration() -> None:
    models = [PipelineConfig]
    for model in models:
        assert model.model_config["extra"] == "forbid"
        annotations = [field.annotation for field in model.model_fields.values()]
        models += [a for a in annotations if isinstance(a, type) and issubclass(a, BaseModel)]


@pytest.mark.parametrize("path", PRESETS, ids=identify)
def test_a_preset_loads_under_its_own_name(path: Path) -> None:
    config = load(path)
    assert config.name == path.stem
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config
