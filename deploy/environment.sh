#!/bin/sh
# See to it that .venv has what a target of the Makefile needs: deploy/environment.sh run|dev|bench
#
# Silent and quick where nothing is to be done. PYTHON names the Python to use, instead of the first that fits.
#
# A stamp in .venv holds the project's path and the checksum of what .venv was made from: contents and not times, which
# a checkout or a copy changes. Stamps go before pip starts and come back when it has ended well, so a .venv without
# one was interrupted. The packages of bench contain those of dev, which contain those of run.
set -u
# Without CDPATH, which would send a relative path elsewhere.
CDPATH='' cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON-}

fail() {
    # On a terminal, in place of the line that shows how far it is.
    [ ! -t 2 ] || printf '\r\033[K' >&2
    echo "$*" >&2
    exit 1
}

lock_of() { # KIND
    case $1 in
        run) echo requirements/embedded.txt ;; # `make run` starts servers of its own
        *) echo "requirements/$1.txt" ;;
    esac
}

stamp_for() { # KIND: what its stamp says when .venv is up to date
    echo "$(pwd -P) $(cat pyproject.toml "$(lock_of "$1")" | cksum)"
}

# Prints "3.12 whole" for a Python that will do, "3.12 bare" for one without venv, nothing for any other.
probe() { # PYTHON
    "$1" -c '
import sys, importlib.util as u
fits = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 14)
whole = all(map(u.find_spec, ("venv", "ensurepip")))
print(*["%d.%d" % sys.version_info[:2], "whole" if whole else "bare"] if fits else [])
' 2>/dev/null
}

origin() { # PYTHON: the same for an installation and for each venv made with it
    "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
}

# Sets `usable` if .venv can stay; whether its packages are the right ones is another question.
look_at_venv() {
    usable=''
    case $(probe .venv/bin/python) in *whole) usable=yes ;; esac
    if [ -n "$PYTHON" ] && [ "$(origin "$PYTHON")" != "$(origin .venv/bin/python)" ]; then usable=''; fi
}

# Sets `python` to a Python that will do, if there is one, and `bare` to the version of one that lacks venv.
find_python() {
    python='' bare=''
    if [ -n "$PYTHON" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11 python
    fi
    for candidate do
        found=$(probe "$candidate")
        case $found in
            *whole) python=$candidate; return ;;
            *bare) bare=${bare:-${found% bare}} ;;
        esac
    done
}

make_venv() {
    find_python
    if [ -z "$python" ]; then
        [ -z "$bare" ] || fail "Python $bare lacks venv: install it (Debian, Ubuntu: apt-get install python$bare-venv)."
        [ -z "$PYTHON" ] || fail "PYTHON=$PYTHON is no CPython from 3.11 to 3.14."
        fail 'No Python from 3.11 to 3.14 found: install one (Debian 12 and later: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python3.'
    fi
    echo "Making .venv with $("$python" --version) ..." >&2
    rm -rf .venv
    said=$("$python" -m venv .venv 2>&1) || fail "Could not make .venv: $(echo "$said" | tail -n 1)"
}

installed() {
    ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l
}

# Shows how far pip is, which takes a minute and says nothing. Ends with the script, however that ends.
progress() {
    while kill -0 $$ 2>/dev/null; do
        # Packages for other systems are ignored, and not waited for.
        printf '\r  %s of %s fetched, %s installed ' "$(grep -c '(from -r' .venv/install.log)" \
            "$((packages - $(grep -c '^Ignoring' .venv/install.log)))" "$(($(installed) - before))" >&2
        sleep 0.3
    done
}

pip_install() {
    .venv/bin/python -m pip install "$@"
}

install_packages() { # KIND
    lock=$(lock_of "$1")
    packages=$(grep -c '==' "$lock")
    before=$(installed)
    echo "Installing $packages packages, which may take a minute (.venv/install.log) ..." >&2
    : >.venv/install.log
    if [ -t 2 ]; then
        progress &
        trap 'kill $! 2>/dev/null; printf "\r\033[K" >&2' EXIT
    fi
    # Whatever pip's own settings say: into .venv, without a question.
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    {
        pip_install --require-hashes -r "$lock" &&
            pip_install --no-index --no-deps --no-build-isolation --editable .
    } >>.venv/install.log 2>&1 ||
        fail "Could not install the packages (is a package index in reach?): $(grep -i error .venv/install.log | tail -n 1) (.venv/install.log has the rest)"
}

# Each gets its stamp too, so that `make run` after `make test` has nothing to do.
case ${1-} in
    run) contained='run' ;;
    dev) contained='run dev' ;;
    bench) contained='run dev bench' ;;
    *) fail "Usage: $0 run|dev|bench" ;;
esac

look_at_venv
if [ "$usable" ] && [ "$(stamp_for "$1")" = "$(cat ".venv/stamp-$1" 2>/dev/null)" ]; then exit 0; fi
# Scripts in .venv name its path: without a stamp of this place, it was interrupted or has moved.
case $(cat .venv/stamp-* 2>/dev/null) in
    "$(pwd -P) "*) ;;
    *) usable='' ;;
esac
[ "$usable" ] || make_venv

# Before the stamps go: where the locks are too old, nothing has changed.
said=$(.venv/bin/python deploy/check_locks.py 2>&1) || fail "$said"
rm -f .venv/stamp-*
install_packages "$1"
for each in $contained; do stamp_for "$each" >".venv/stamp-$each"; done
