"""Check that the lock files have what pyproject.toml asks for: contents, not times.

Run by the Makefile before the packages are installed, so only pip is there.
"""

# ruff: noqa: INP001 - a script

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# packaging is not installed yet, and pip has no public way to it.
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

# Each with the extras that it locks, as `make lock` does.
LOCKS = {
    "requirements/run.txt": (),
    "requirements/embedded.txt": ("embedded",),
    "requirements/dev.txt": ("embedded", "dev"),
    "requirements/bench.txt": ("embedded", "dev", "bench"),
}
_LOCKED = re.compile(r"^([\w.-]+)(?:\[.*?\])?(?:==([^\s;\\]+)| @ )", re.MULTILINE)


def missing(root: Path) -> Iterator[tuple[str, str]]:
    """Go over the requirements of pyproject.toml that a lock does not meet, after the lock's name.

    A lock may have several versions of a package, for different machines: one of them has to fit.
    """
    asked = tomllib.loads((root / "pyproject.toml").read_text())
    project, groups = asked["project"], asked["dependency-groups"]
    for lock, extras in LOCKS.items():
        locked = [
            (canonicalize_name(name), version)
            for name, version in _LOCKED.findall((root / lock).read_text())
        ]
        wanted = [*project["dependencies"], *groups["build"]]
        for extra in extras:
            wanted += project["optional-dependencies"][extra]
        for requirement in map(Requirement, wanted):
            name = canonicalize_name(requirement.name)
            if not any(
                name == found
                and (not version or requirement.specifier.contains(version, prereleases=True))
                for found, version in locked
            ):
                yield lock, f"{requirement.name}{requirement.specifier}"


if __name__ == "__main__":
    if found := list(missing(Path())):
        locks, requirements = (", ".join(dict.fromkeys(each)) for each in zip(*found, strict=True))
        sys.exit(
            f"The lock files are older than pyproject.toml: {locks} lack {requirements}. Run: make"
            " lock (it needs uv: pip install uv)."
        )
