"""`python -m deployments.stack up|down|keep|status`; `keep` starts again what has died, and is for cron."""

import argparse
import sys
from pathlib import Path

from core.errors import FewcastError
from deployments.stack.stack import PROFILES, Stack


def main() -> int:
    """Bring the stack up or down, keep it up, or say what of it runs."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "keep", "status"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data and of the state")
    parser.add_argument("--config", action="append", default=[], help="deploy these TOML files instead of the presets")
    parser.add_argument("--profile", default="", help=f"where Prefect and MLflow keep records: {', '.join(PROFILES)}")
    options = parser.parse_args()
    stack = Stack(options.data)
    try:
        if options.action == "up":
            for name, address in stack.up(options.config, options.profile).items():
                print(f"{name:<8} {address}")
        elif options.action == "down":
            print("ended", ", ".join(stack.down()) or "nothing")
        elif options.action == "keep":
            for name in stack.keep():
                print(f"started {name} again")
        else:
            for name, entry in stack.running().items():
                print(f"{name:<24} pid {entry.pid:<8} {entry.address}")
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
