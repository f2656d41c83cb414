#!/bin/sh
# Makes sure that .venv has the packages that a target of the Makefile needs: deploy/environment.sh run|dev|bench
#
# It is silent and quick if there is nothing to do. PYTHON names the Python to use, instead of the first that fits.
#
# A stamp is a file in .venv with the project's path and a checksum of the files that .venv was made from. File times
# are not used, because a checkout or a copy changes them. The stamps are deleted before pip starts and written after
# pip has succeeded, so a .venv without a stamp was interrupted. The packages of bench include those of dev, which
# include those of run.
set -u
# With CDPATH set, `cd` could enter another folder.
CDPATH='' cd "$(dirname "$0")/.." || exit
PYTHON=${PYTHON-}

fail() {
    # On a terminal, the message replaces the line that shows the progress.
    [ ! -t 2 ] || printf '\r\033[K' >&2
    echo "$*" >&2
    exit 1
}

lock_of() { # KIND
    case $1 in
        run) echo requirements/embedded.txt ;; # `make run` may start embedded servers
        *) echo "requirements/$1.txt" ;;
    esac
}

stamp_for() { # KIND: print the stamp of a .venv that is up to date
    echo "$(pwd -P) $(cat pyproject.toml "$(lock_of "$1")" | cksum)"
}

# Prints "3.12 whole" for a Python that can be used, "3.12 bare" for one without venv, nothing for any other.
probe() { # PYTHON
    "$1" -c '
import sys, importlib.util as u
fits = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 14)
whole = all(map(u.find_spec, ("venv", "ensurepip")))
print(*["%d.%d" % sys.version_info[:2], "whole" if whole else "bare"] if fits else [])
' 2>/dev/null
}

origin() { # PYTHON: print a text that is the same for an installation and for each venv made with it
    "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
}

# Sets `usable` if .venv need not be created again. Its packages are not checked here.
look_at_venv() {
    usable=''
    case $(probe .venv/bin/python) in *whole) usable=yes ;; esac
    if [ -n "$PYTHON" ] && [ "$(origin "$PYTHON")" != "$(origin .venv/bin/python)" ]; then usable=''; fi
}

# Sets `python` to a Python that can be used, if there is one, and `bare` to the version of one that lacks venv.
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
        [ -z "$PYTHON" ] || fail "PYTHON=$PYTHON is not a CPython from 3.11 to 3.14."
        fail 'No Python from 3.11 to 3.14 found: install one (Debian 12 and later: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python3.'
    fi
    echo "Making .venv with $("$python" --version) ..." >&2
    rm -rf .venv
    said=$("$python" -m venv .venv 2>&1) || fail "Could not make .venv: $(echo "$said" | tail -n 1)"
}

installed() {
    ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l
}

# Shows the progress of pip, which takes a minute and prints nothing. Ends when the script ends, for any reason.
progress() {
    while kill -0 $$ 2>/dev/null; do
        # pip ignores packages for other systems, so they are not counted.
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
    # These override the user's settings of pip: it installs into .venv, and asks no question.
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    {
        pip_install --require-hashes -r "$lock" &&
            pip_install --no-index --no-deps --no-build-isolation --editable .
    } >>.venv/install.log 2>&1 ||
        fail "Could not install the packages (can a package index be reached?): $(grep -i error .venv/install.log | tail -n 1) (.venv/install.log has the rest)"
}

# Each kind in `contained` gets a stamp, so that `make run` after `make test` has nothing to do.
case ${1-} in
    run) contained='run' ;;
    dev) contained='run dev' ;;
    bench) contained='run dev bench' ;;
    *) fail "Usage: $0 run|dev|bench" ;;
esac

look_at_venv
if [ "$usable" ] && [ "$(stamp_for "$1")" = "$(cat ".venv/stamp-$1" 2>/dev/null)" ]; then exit 0; fi
# Scripts in .venv contain its path. If no stamp has this path, the installation was interrupted or .venv has moved.
case $(cat .venv/stamp-* 2>/dev/null) in
    "$(pwd -P) "*) ;;
    *) usable='' ;;
esac
[ "$usable" ] || make_venv

# Checked before the stamps are deleted, so that lock files which are too old change nothing.
said=$(.venv/bin/python deploy/check_locks.py 2>&1) || fail "$said"
rm -f .venv/stamp-*
install_packages "$1"
for each in $contained; do stamp_for "$each" >".venv/stamp-$each"; done
