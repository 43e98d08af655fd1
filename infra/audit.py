"""Dependencies under the eye, for `make check`: installed as locked, everything locked, nothing known to be vulnerable.

The last needs a vulnerability service over the network: where it does not answer, a notice says so, and the rest holds.
A vulnerability that is looked into and does not concern fewcast is named, with the reason, in `audit-accepted.txt`.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ACCEPTED = ROOT / "infra" / "audit-accepted.txt"
PATIENCE_SECONDS = 90


def canonical(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Versions by name, as `requirements.lock` pins them."""
    pins = (line.split("==") for line in (ROOT / "requirements.lock").read_text().split() if "==" in line)
    return {canonical(name): version for name, version in pins}


def unlocked() -> list[str]:
    """Dependencies of the project that the lock does not pin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(word for extra in project["optional-dependencies"].values() for word in extra)]
    names = {match[0] for match in (re.match(r"[A-Za-z0-9._-]+", word) for word in asked) if match}
    return [f"{name} is not in requirements.lock" for name in sorted(names) if canonical(name) not in locked()]


def strayed() -> list[str]:
    """Installed packages whose version is another than the lock's; a build's local label (+cpu) is no matter."""
    pins = locked()
    installed = {canonical(one.metadata["Name"]): one.version.split("+")[0] for one in distributions()}
    return [
        f"{name} {version} is installed, {pins[name]} is locked"
        for name, version in sorted(installed.items())
        if name in pins and version != pins[name]
    ]


def vulnerable(report: dict[str, list[dict[str, Any]]], accepted: set[str]) -> tuple[list[str], int]:
    """What pip-audit's report holds against the lock, and how many packages it could look up."""
    found, looked_up = [], 0
    for package in report["dependencies"]:
        if "skip_reason" in package:
            continue
        looked_up += 1
        for entry in package["vulns"]:
            if not accepted & {entry["id"], *entry["aliases"]}:
                mend = f"fixed in {', '.join(entry['fix_versions'])}" if entry["fix_versions"] else "no fix yet"
                found.append(f"{package['name']} {package['version']}: {entry['id']} ({mend})")
    return found, looked_up


def ask_service() -> tuple[list[str], str]:
    """Known vulnerabilities of what is locked, and a notice where they could not be asked for."""
    words = ["--requirement", str(ROOT / "requirements.lock"), "--no-deps", "--disable-pip", "--format=json"]
    try:
        done = subprocess.run([sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--timeout=10", *words],
                              capture_output=True, text=True, timeout=PATIENCE_SECONDS)  # fmt: skip
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return [], "the vulnerability service does not answer: known vulnerabilities were not looked up"
    accepted = {line.split()[0] for line in ACCEPTED.read_text().splitlines() if line and not line.startswith("#")}
    found, looked_up = vulnerable(report, accepted)
    missing = len(report["dependencies"]) - looked_up
    return found, f"{missing} packages are not known to the vulnerability service" if missing else ""


def main() -> int:
    """Say what is wrong; 1 if anything is."""
    wrong = unlocked() + strayed()
    consistent = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    if consistent.returncode:
        wrong += consistent.stdout.splitlines()
    found, notice = ask_service()
    for line in wrong + found:
        print(f"audit: {line}", file=sys.stderr)
    print(f"audit: {len(locked())} locked packages" + (f"; NOTICE: {notice}" if notice else ""))
    return 1 if wrong or found else 0


if __name__ == "__main__":
    sys.exit(main())
