#!/bin/sh
# Makes what operators use ready in .venv/operators, for the tests of what we give them: prometheus and promtool for the
# alerts and the dashboard, systemd-analyze for the unit. Those of this machine, else those of Debian's packages,
# unpacked beside the environment. Needs no root and changes nothing outside .venv. Where they cannot be had,
# .venv/operators/why-not says so, and the tests that need them fail with it.
set -eu
cd "$(dirname "$0")/.."

folder=$PWD/.venv/operators
programs='prometheus promtool systemd-analyze'

of_this_machine() {
    for name in $programs; do
        found=$(command -v "$name" 2>/dev/null) && "$found" --version >/dev/null 2>&1 || return 1
        ln -s "$found" "$folder/$name"
    done
}

# The packages that are not installed here, fetched and checked by apt as always, but unpacked beside the environment.
unpack_from_debian() {
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 1
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/root"
    set -- -qq -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o "APT::Sandbox::User=$(id -un)" \
        -o Debug::NoLocking=1 -o Acquire::Languages=none -o APT::Install-Recommends=false -o Acquire::Retries=3
    apt-get "$@" update || return 1
    apt-get "$@" --yes --download-only install prometheus systemd || return 1
    for package in "$folder"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$folder/root" || return 1; done
    rm -rf "$folder/lists" "$folder/cache" "$folder/root/usr/share/doc" "$folder/root/usr/share/locale"
    libraries=$(find "$folder/root/lib" "$folder/root/usr/lib" -name '*.so*' 2>/dev/null | sed 's|/[^/]*$||' | sort -u | paste -sd: -)
    for name in $programs; do
        for place in "$folder/root/usr/bin" "$folder/root/bin" /usr/bin /bin; do
            if [ -x "$place/$name" ]; then break; fi
        done
        # The units that it knows by name come with its package.
        {
            printf '#!/bin/sh\n'
            printf 'export LD_LIBRARY_PATH="%s"\n' "$libraries"
            printf 'export SYSTEMD_UNIT_PATH="%s:"\n' "$folder/root/lib/systemd/system"
            printf 'exec "%s" "$@"\n' "$place/$name"
        } >"$folder/$name"
        chmod 755 "$folder/$name"
        "$folder/$name" --version || return 1
    done
}

rm -rf "$folder"
mkdir -p "$folder"
if ! of_this_machine; then
    rm -rf "$folder"
    mkdir -p "$folder"
    if ! unpack_from_debian >"$folder/log" 2>&1; then
        for name in $programs; do rm -f "$folder/$name"; done
        {
            echo "prometheus, promtool and systemd-analyze are not all here, and cannot be unpacked from Debian's packages (the log: $folder/log)."
            echo "Install prometheus and systemd, and run: rm .venv/set-up-dev && make setup"
        } >"$folder/why-not"
        cat "$folder/why-not" >&2
    fi
fi
