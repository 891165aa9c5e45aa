#!/bin/sh
# Makes .venv ready, or does nothing where it is ready already.
#
#   tools/setup.sh runtime    the program and what it needs
#   tools/setup.sh dev        also what the tests and checks need
#
# PYTHON names the interpreter (default: python3). Needs no root, no compiler, and no HOME.
set -eu
cd "$(dirname "$0")/.."

level=${1:?runtime or dev}
PYTHON=${PYTHON:-python3}
venv=.venv
log=$venv/setup.log

fail() {
    echo "setup: $*" >&2
    exit 1
}

# What the environment was made from. The folder is part of it: a moved environment has scripts that point nowhere.
fingerprint() {
    pwd
    cksum pyproject.toml constraints.txt tools/setup.sh tools/browser.sh tools/azurite.sh tools/operators.sh src/mail_proxy/__init__.py
}

is_ready() {
    for stamp in "$@"; do
        if [ -f "$venv/$stamp" ] && [ "$(cat "$venv/$stamp")" = "$(fingerprint)" ]; then return 0; fi
    done
    return 1
}

# The default name stands for any Python; an interpreter that was asked for has to be the one that is there.
is_the_python_asked_for() {
    [ "$PYTHON" = python3 ] || [ "$(minor_version "$venv/bin/python")" = "$(minor_version "$PYTHON")" ]
}

minor_version() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

check_python() {
    version=$(minor_version "$PYTHON") || fail "cannot run '$PYTHON': install Python 3.10 or newer, or name one with PYTHON=/path/to/python3."
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "Python 3.10 or newer is needed, '$PYTHON' is $version: name a newer one with PYTHON=/path/to/python3."
}

has_ensurepip() {
    "$PYTHON" -c 'from ensurepip import version' 2>/dev/null
}

make_venv() {
    has_ensurepip || "$PYTHON" -m pip --version >/dev/null 2>&1 \
        || fail "'$PYTHON' has neither venv nor pip: install one of them, on Debian and Ubuntu with 'apt-get install python3-venv'."
    echo "Making $venv with Python $version ..."
    rm -rf "$venv"
    if has_ensurepip; then
        "$PYTHON" -m venv "$venv"
        return
    fi
    # Debian keeps ensurepip in a package of its own. A pip from elsewhere can put one into the environment instead.
    "$PYTHON" -m venv --without-pip "$venv"
    site_packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$PYTHON" -m pip install --quiet --target "$site_packages" pip >"$log" 2>&1 || show_log
}

install() {
    "$venv/bin/python" -m pip install --no-input --constraint constraints.txt "$@" >>"$log" 2>&1 || show_log
}

show_log() {
    tail -n 15 "$log" >&2
    fail "installing failed; all of pip's output is in $log."
}

case $level in
    runtime) extras='' stamp=set-up-runtime ready='set-up-runtime set-up-dev' ;;
    dev) extras='[postgresql,large-files,otel,dev]' stamp=set-up-dev ready='set-up-dev' ;;
    *) fail "'$level' is neither runtime nor dev." ;;
esac

if [ -x "$venv/bin/python" ] && is_the_python_asked_for && is_ready $ready; then exit 0; fi

# Two runs at once would install over each other.
if command -v flock >/dev/null 2>&1; then
    exec 9>.venv.lock
    flock 9
    if [ -x "$venv/bin/python" ] && is_the_python_asked_for && is_ready $ready; then exit 0; fi
fi

# pip writes its cache to HOME; without a HOME it would try the root folder.
if [ ! -d "${HOME:-}" ] || [ ! -w "${HOME:-}" ]; then export PIP_NO_CACHE_DIR=1; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1
started=$(date +%s)

if ! { [ -x "$venv/bin/python" ] && is_the_python_asked_for && "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    check_python
    make_venv
fi

: >"$log"
rm -f "$venv/set-up-runtime" "$venv/set-up-dev"
if [ "$level" = dev ]; then
    echo "Installing the program, its tests' and its checks' needs into $venv (a minute or two the first time) ..."
else
    echo "Installing the program and what it needs into $venv (up to a minute the first time) ..."
fi
# They take about as long as what follows.
if [ "$level" = dev ]; then
    tools/browser.sh & browser=$!
    tools/operators.sh & operators=$!
fi
install hatchling editables
if [ "$level" = dev ]; then tools/azurite.sh & azurite=$!; fi # may need a pip
install --no-build-isolation --editable ".$extras"
if [ "$level" = dev ]; then wait "$browser" && wait "$operators" && wait "$azurite"; fi
fingerprint >"$venv/$stamp"
echo "Ready after $(($(date +%s) - started)) s."
