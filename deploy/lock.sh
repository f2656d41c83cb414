#!/bin/sh
# Write requirements/*.txt anew from pyproject.toml: deploy/lock.sh [more arguments for `uv pip compile`]
#
# What is locked stays as it is, as long as it fits; --upgrade takes the newest versions. UV names the uv to use.
CDPATH='' cd "$(dirname "$0")/.." || exit
UV=${UV-uv}
command -v "$UV" >/dev/null || {
    echo 'make lock needs uv: pip install uv' >&2
    exit 1
}

# For every system and for the oldest Python that we support; without the address of the index that uv has asked.
compile() {
    "$UV" pip compile --quiet --universal --generate-hashes --python-version 3.11 --group build \
        --no-emit-index-url --no-emit-find-links --annotation-style line \
        --custom-compile-command 'make lock' pyproject.toml "$@"
}

# The first lock binds the others, so all of them always agree and can share one .venv.
compile --extra embedded --extra dev -o requirements/dev.txt "$@" &&
    compile --extra embedded -c requirements/dev.txt -o requirements/embedded.txt "$@" &&
    compile -c requirements/dev.txt -o requirements/run.txt "$@" &&
    compile --extra embedded --extra dev --extra bench -c requirements/dev.txt -o requirements/bench.txt "$@" ||
    exit

# A host in a lock would bind everybody to the index of whoever ran this.
if grep -n '://' requirements/*.txt; then
    echo 'A lock file names a host.' >&2
    exit 1
fi
