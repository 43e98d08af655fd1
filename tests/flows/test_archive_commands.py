"""`fewcast archive inspect | validate | repair` on a real archive, one of whose frames is damaged on the way."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from core.archive import Archive
from core.report import Report
from flows import cli
from tasks.terminal import Terminal
from tests.core.ingest.world import SLOTS, config, run


def test_an_archive_is_inspected_validated_and_repaired(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from core.satellite import simulator

    heard: list[tuple[str, int, int]] = []
    monkeypatch.setattr(
        Terminal, "progress", lambda terminal, done, total, _: heard.append((terminal._stage, done, total))
    )
    settings = config(tmp_path)
    simulator.simulate(settings)
    run(settings)
    picture = tmp_path / "look.png"
    assert cli.main(["archive", "inspect", settings.archive, "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    for wanted in ("ir105", "vi004", "2024-03-01", "2024-03-02", str(SLOTS)):
        assert wanted in said
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["archive", "validate", settings.archive]) == 0
    assert "all sound" in capsys.readouterr().out
    assert heard == [("validate", 1, 2), ("validate", 2, 2)]

    archive = Archive.open(settings.archive)
    [slot, *_] = archive.status.any(1).nonzero()[0]
    key = archive.key("reflectance", int(slot))
    archive.objects.put(key, (archive.objects.get(key) or b"")[:-9])
    assert cli.main(["archive", "validate", settings.archive]) == 1
    assert "its stored bytes do not check" in capsys.readouterr().out
    assert cli.main(["archive", "repair", settings.archive]) == 0, "nothing unsound is served any more"
    assert "taken out of service" in capsys.readouterr().out
    assert heard[-2:] == [("repair", 1, 2), ("repair", 2, 2)]
    assert cli.main(["archive", "validate", settings.archive]) == 0
    assert run(settings).written == 1, "the next backfill brings the frame back"


def test_an_archive_that_is_not_there_is_one_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for action in ("inspect", "validate", "repair"):
        assert cli.main(["archive", action, str(tmp_path / "none.zarr")]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("fewcast: no archive at ")


@pytest.mark.parametrize(("logs", "told"), [("", [(1, 3, "checking")]), ("json", [])])
def test_a_store_is_validated_with_progress_unless_the_terminal_is_for_a_machine(
    monkeypatch: pytest.MonkeyPatch, logs: str, told: list[tuple[int, int, str]]
) -> None:
    def validate(url: str, *, rebuild_damaged: bool, report: Report) -> SimpleNamespace:
        report.progress(1, 3, "checking")
        return SimpleNamespace(valid=True)

    heard: list[tuple[int, int, str]] = []
    monkeypatch.setattr(Terminal, "progress", lambda _, *told: heard.append(told))
    monkeypatch.setattr("core.episodes.validate", validate)
    monkeypatch.setenv("FEWCAST_LOGS", logs)
    assert cli.main(["episodes", "validate", "store.zarr"]) == 0
    assert heard == told
