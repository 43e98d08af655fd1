"""The audit of the dependencies finds what is wrong, and takes nothing that it was not told for good."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / "infra" / "audit.py")
assert SPEC
assert SPEC.loader
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

FLAW = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
REPORT = {
    "dependencies": [
        {"name": "good", "version": "1.0", "vulns": []},
        {"name": "bad", "version": "1.0", "vulns": [FLAW, FLAW | {"id": "PYSEC-2", "aliases": [], "fix_versions": []}]},
        {"name": "unheard-of", "skip_reason": "not found"},
    ]
}


def test_this_project_is_locked_and_installed_as_locked() -> None:
    assert audit.unlocked() == []
    assert audit.strayed() == []
    assert len(audit.locked()) > 100


def test_what_strays_from_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("Flask-WTF==0.1\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["flask_wtf<2", "numpy"]\noptional-dependencies = {}'
    )
    monkeypatch.setattr(audit, "ROOT", tmp_path)
    assert audit.unlocked() == ["numpy is not in requirements.lock"]
    assert [line.split()[0] for line in audit.strayed()] == ["flask-wtf"]


def test_a_known_vulnerability_counts_unless_it_is_accepted() -> None:
    found, looked_up = audit.vulnerable(REPORT, set())
    assert found == ["bad 1.0: PYSEC-1 (fixed in 2.0)", "bad 1.0: PYSEC-2 (no fix yet)"]
    assert looked_up == 2
    assert audit.vulnerable(REPORT, {"CVE-1", "PYSEC-2"}) == ([], 2)
