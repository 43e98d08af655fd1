"""`python -m deployments.backup save|restore FOLDER`: the records of Prefect and MLflow, and archives.

Taken while everything runs. Databases come first, by their own means of an online copy; MLflow's artifacts after them,
since they only grow. An archive is copied twice: freely, then what has changed since, with its writer kept out, so that
the copy is of one moment; an ingest that begins in these seconds ends, and the next one does its work. Saved into the
same folder again, it copies what has changed; until it is finished, there is no backup in the folder.
"""

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import fsspec

from core.archive.lock import LOCK, exclusive
from core.archive.objects import SCRATCH, Objects, open_objects
from core.config import load
from core.errors import FewcastError
from deployments.stack.postgres import Postgres, client_environment, find_program
from deployments.stack.secrets import read_secrets
from deployments.stack.stack import Stack, kept_profile
from flows.access import USERS
from flows.cli import PRESETS

SQLITE = {"prefect.db": "prefect/prefect.db", "mlflow.db": "mlflow.db", USERS: USERS}
POSTGRES = ("prefect", "mlflow")
ARTIFACTS, ROOT = "mlflow-artifacts", "zarr.json"
FINISHED = "backup.json"
CONNECTIONS = 8
PATIENCE_SECONDS = 60  # an ingest of the newest slots holds the archive for less


def save(data: Path, folder: Path, archives: Sequence[str] = ()) -> list[str]:
    """Copy the records in `data`, and archives by URL, into `folder`; returns what was saved, in words.

    Where there is no stack, as in a container, archives alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FINISHED).unlink(missing_ok=True)  # until it is over, this is no backup
    said = []
    if (postgres := _postgres(data)) is not None:
        for name in POSTGRES:
            _run("pg_dump", ["--format=custom", f"--file={folder / name}.dump.new", name], postgres, name)
            (folder / f"{name}.dump.new").replace(folder / f"{name}.dump")
            said.append(f"database {name}")
    for name, place in SQLITE.items():
        if (data / place).exists():
            _copy_sqlite(data / place, folder / name)
            said.append(f"database {name}")
    if not said and not archives:
        mend = "give --data, or an archive"
        raise FewcastError("there are no records to save", found=f"no database in {data}", mend=mend)
    profile = ("postgres" if postgres else "sqlite") if said else ""  # empty: no records
    if (data / ARTIFACTS).is_dir():
        shutil.copytree(data / ARTIFACTS, folder / ARTIFACTS, dirs_exist_ok=True, copy_function=_copy_if_new)
        said.append("artifacts of MLflow")
    names = {url: f"archive-{number}" for number, url in enumerate(dict.fromkeys(archives))}
    for url, name in names.items():
        said.append(f"archive {url}: {_save_archive(url, folder / name)} objects copied")
    notes = {"profile": profile, "archives": names}
    (folder / FINISHED).write_text(json.dumps(notes, indent=1))
    return said


def restore(data: Path, folder: Path, into: str = "") -> list[str]:
    """Bring back what `save` left in `folder`, where nothing is; returns what was restored, in words.

    Archives go to where they were, or (by their last two names, as `korea/archive.zarr`) under `into`. Raises
    `FewcastError` where records or an archive are in the way, or two archives would be one.
    """
    try:
        notes = json.loads((folder / FINISHED).read_text())
    except (OSError, ValueError) as error:
        raise FewcastError("this is no finished backup", found=str(folder), mend="name the folder of a save") from error
    targets = _targets(notes["archives"], into)
    records = (*SQLITE.values(), "stack/postgres") if notes["profile"] else ()
    in_the_way = [place for place in records if (data / place).exists()]
    in_the_way += [url for url in targets.values() if open_objects(url).get(ROOT) is not None]
    if in_the_way:
        raise FewcastError(
            "a backup is restored where nothing is", found=", ".join(in_the_way), mend="give an empty --data, or --into"
        )
    said = _restore_records(data, folder, notes["profile"]) if notes["profile"] else []
    for url, target in targets.items():
        said.append(f"archive {target}: {_restore_archive(folder / notes['archives'][url], target)} objects")
    return said


def _restore_records(data: Path, folder: Path, profile: str) -> list[str]:
    said = _restore_postgres(data, folder) if profile == "postgres" else []
    for name, place in SQLITE.items():
        if (folder / name).exists():
            (data / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, data / place)
            said.append(f"database {name}")
    if (folder / ARTIFACTS).is_dir():
        shutil.copytree(folder / ARTIFACTS, data / ARTIFACTS, dirs_exist_ok=True)
        said.append("artifacts of MLflow")
    return said


def _targets(urls: Iterable[str], into: str) -> dict[str, str]:
    """Where each archive goes; every preset's is called `archive.zarr`, so that its folder is part of its name."""
    if not into:
        return {url: url for url in urls}
    targets = {url: "/".join([into.rstrip("/"), *url.rstrip("/").split("/")[-2:]]) for url in urls}
    if len({*targets.values()}) < len(targets):
        raise FewcastError(
            "two archives would be restored to one place",
            found=", ".join(f"{url} to {target}" for url, target in targets.items()),
            mend="leave out --into, or save them into two backups",
        )
    return targets


def _copy_sqlite(source: Path, target: Path) -> None:
    """SQLite's own online copy: a moment between transactions, whoever writes meanwhile."""
    beside = target.with_suffix(".new")
    beside.unlink(missing_ok=True)
    live = sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=60)
    with closing(live), closing(sqlite3.connect(beside)) as copy:
        live.backup(copy)
    beside.replace(target)


def _copy_if_new(source: str, target: str) -> None:
    before, now = Path(target), Path(source).stat()
    if not before.exists() or (before.stat().st_size, before.stat().st_mtime) != (now.st_size, now.st_mtime):
        shutil.copy2(source, target)


def _save_archive(url: str, folder: Path) -> int:
    """How many objects were copied: freely first, then with the writer kept out what has changed since."""
    source, target = open_objects(url), open_objects(str(folder / "objects"))
    if source.get(ROOT) is None:
        raise FewcastError("there is no archive to save", found=url, mend="name an archive's folder or s3:// URL")
    note = folder / "index.json"
    known: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}
    copied = 0

    def take_what_is_new() -> None:
        nonlocal copied
        now = _fingerprints(url)
        changed = [key for key, mark in now.items() if known.get(key) != mark]
        _each(changed, lambda key: _copy(source, target, key))
        for gone in known.keys() - now.keys():
            target.delete(gone)
        known.clear()
        known.update(now)
        note.write_text(json.dumps(known))
        copied += len(changed)

    folder.mkdir(parents=True, exist_ok=True)
    take_what_is_new()
    with _once_free(source):
        take_what_is_new()
    return copied


@contextmanager
def _once_free(archive: Objects) -> Iterator[None]:
    """Hold an archive; `FewcastError` where its writer has it for longer than a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(archive))
                break
            except FewcastError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        yield


def _restore_archive(folder: Path, url: str) -> int:
    source, target = open_objects(str(folder / "objects")), open_objects(url)
    keys = [key for key, _ in source.keys("") if key != ROOT]
    _each(keys, lambda key: _copy(source, target, key))
    _copy(source, target, ROOT)  # last: it is what makes the rest an archive
    return len(keys) + 1


def _fingerprints(url: str) -> dict[str, list[Any]]:
    """Size and version of each object: its entity tag in a bucket, its time of change on a disk."""
    filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    found = filesystem.find(root, detail=True)
    marks = {
        path[len(root.rstrip("/")) + 1 :]: [info["size"], info.get("ETag") or info.get("mtime")]
        for path, info in found.items()
    }
    return {key: mark for key, mark in marks.items() if key != LOCK and not key.startswith(SCRATCH)}


def _copy(source: Objects, target: Objects, key: str) -> None:
    content = source.get(key)
    if content is not None:
        target.put(key, content)


def _each(keys: Sequence[str], work: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(work, keys):
            pass


def _postgres(data: Path) -> Postgres | None:
    """The running cluster of a data folder in the postgres profile."""
    if kept_profile(data / "stack") != "postgres":
        return None
    ports = json.loads((data / "stack" / "ports.json").read_text())
    return Postgres(data.resolve() / "stack" / "postgres", ports["postgres"], read_secrets(data / "stack"))


def _run(program: str, words: list[str], postgres: Postgres, role: str) -> None:
    environment = client_environment(postgres.port, role, postgres.secrets[f"{role.upper()}_DATABASE_PASSWORD"])
    done = subprocess.run([find_program(program), *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise FewcastError(
            f"{program} of the database {role} failed",
            found=(done.stderr.strip().splitlines() or ["no word"])[0],
            mend="the stack must be up (`make up`) to save; nothing was replaced",
        )


def _restore_postgres(data: Path, folder: Path) -> list[str]:
    stack = Stack(data)
    plan = stack.plan("postgres")
    assert plan.postgres is not None
    [service] = plan.databases()
    stack.processes.start(service, data.resolve().parent)
    try:
        plan.postgres.make_databases()
        for name in POSTGRES:
            words = ["--no-owner", "--exit-on-error", f"--dbname={name}", str(folder / f"{name}.dump")]
            _run("pg_restore", words, plan.postgres, name)
    finally:
        stack.down()
    return [f"database {name}" for name in POSTGRES]


def main() -> int:
    """Save or restore, and say what."""
    parser = argparse.ArgumentParser(prog="python -m deployments.backup", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("save", "restore"))
    parser.add_argument("folder", type=Path, help="where the backup is")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the stack's data")
    parser.add_argument("--archive", action="append", default=[], help="save: an archive's URL (repeatable)")
    parser.add_argument("--config", action="append", default=[], help="save: the archive of a TOML file (repeatable)")
    parser.add_argument("--preset", action="append", default=[], help="save: the archive of a preset (repeatable)")
    parser.add_argument("--into", default="", help="restore: put archives under this folder or URL")
    options = parser.parse_args()
    try:
        if options.action == "save":
            files = [*options.config, *(PRESETS / f"{name}.toml" for name in options.preset)]
            archives = [*options.archive, *(load(Path(file)).ingest.archive for file in files)]
            said = save(options.data, options.folder, archives)
        else:
            said = restore(options.data, options.folder, options.into)
        print("\n".join(f"{options.action}d: {line}" for line in said))
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
