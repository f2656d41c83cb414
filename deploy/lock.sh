#!/bin/sh
# Writes requirements/*.txt from pyproject.toml: deploy/lock.sh [more arguments for `uv pip compile`]
#
# A locked version stays if it still fits; --upgrade selects the newest versions. UV names the uv to use.
CDPATH='' cd "$(dirname "$0")/.." || exit
UV=${UV-uv}
command -v "$UV" >/dev/null || {
    echo 'make lock needs uv: pip install uv' >&2
    exit 1
}

# The lock files are for every system, and for the oldest Python that we support and later ones. They do not have the
# address of the package index that uv used.
compile() {
    "$UV" pip compile --quiet --universal --generate-hashes --python-version 3.11 --group build \
        --no-emit-index-url --no-emit-find-links --annotation-style line \
        --custom-compile-command 'make lock' pyproject.toml "$@"
}

# The first lock file sets the versions of the others, so all of them can share one .venv.
compile --extra embedded --extra dev -o requirements/dev.txt "$@" &&
    compile --extra embedded -c requirements/dev.txt -o requirements/embedded.txt "$@" &&
    compile -c requirements/dev.txt -o requirements/run.txt "$@" &&
    compile --extra embedded --extra dev --extra bench -c requirements/dev.txt -o requirements/bench.txt "$@" ||
    exit

# With a host name in a lock file, everybody would use the package index of the person who ran this script.
if grep -n '://' requirements/*.txt; then
    echo 'A lock file names a host.' >&2
    exit 1
fi
