"""`python -m backend` that prints each environment variable set while other threads run."""

from __future__ import annotations

import os
import sys
import threading

from backend.cli import main


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.putenv" and threading.active_count() > 1:
        name = os.fsdecode(arguments[0])  # type: ignore[arg-type]  # bytes or text
        if name not in os.environ:
            print(f"put beside threads: {name}", flush=True)


if __name__ == "__main__":
    sys.addaudithook(_audit)
    main()
