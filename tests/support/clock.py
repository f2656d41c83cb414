"""A clock for one server, which a test can set."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """A clock that is equal to the machine's clock until `set` changes it.

    A server that is started with `environment` uses it.
    """

    def __init__(self, directory: Path, compiler: Path) -> None:
        """Compile the clock into a directory. `compiler`: the path of gcc."""
        library, self._file = directory / "clock.so", directory / "clock"
        options: list[str | Path] = ["-shared", "-fPIC", "-nostdlib", "-O1", "-o", library]
        subprocess.run([compiler, *options, SOURCE], check=True, timeout=60)
        library.chmod(0o755)
        self._file.write_bytes(bytes(8))
        self._file.chmod(0o644)
        self.environment = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(self._file)}

    def set(self, seconds: float) -> None:
        """Set it `seconds` ahead of the machine's clock (negative: behind), at once."""
        # Overwritten, not truncated: the server has mapped the file into its memory.
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", round(seconds * 1e9)))
