"""The entry point. `--version` is answered before anything is imported: scripts ask for it often."""

from __future__ import annotations

import sys

from dogwatch import __version__


def main() -> None:
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"dogwatch {__version__}")
        return
    from dogwatch.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
