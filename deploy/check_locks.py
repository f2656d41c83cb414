"""Check that the lock files have what pyproject.toml requires, by their contents.

deploy/environment.sh runs it before the packages are installed, so it can import only pip.
"""

# ruff: noqa: INP001 - a script

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# The package `packaging` is not installed yet. pip contains it, but has no public name for it.
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

# Each lock file with the extras that it locks, as in deploy/lock.sh.
LOCKS = {
    "requirements/run.txt": (),
    "requirements/embedded.txt": ("embedded",),
    "requirements/dev.txt": ("embedded", "dev"),
    "requirements/bench.txt": ("embedded", "dev", "bench"),
}
_LOCKED = re.compile(r"^([\w.-]+)(?:\[.*?\])?(?:==([^\s;\\]+)| @ )", re.MULTILINE)


def missing(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (lock file, requirement) for each requirement that a lock file does not meet.

    A lock file may have several versions of a package, for different machines: one must fit.
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
