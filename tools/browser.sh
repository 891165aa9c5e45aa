#!/bin/sh
# Makes .venv/browser/chromium ready, which the tests open the pages of the documentation with: a script that starts
# $CHROMIUM, else a Chromium or Chrome of this machine, else one that is unpacked from Debian's packages beside it.
# Needs no root and changes nothing outside .venv. Where none can be had, .venv/browser/why-not says so, and the tests
# that need one fail with it.
set -eu
cd "$(dirname "$0")/.."

folder=$PWD/.venv/browser

works() {
    "$1" --headless --no-sandbox --disable-gpu --version >/dev/null 2>&1
}

# write_starter PROGRAM LINE...: the lines come before the program is started.
write_starter() {
    program=$1
    shift
    { printf '#!/bin/sh\n'; printf '%s\n' "$@"; printf 'exec "%s" "$@"\n' "$program"; } >"$folder/chromium"
    chmod 755 "$folder/chromium"
}

of_this_machine() {
    for name in chromium chromium-headless-shell chromium-browser google-chrome google-chrome-stable \
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
        found=$(command -v "$name" 2>/dev/null) || continue
        # Ubuntu's chromium-browser may only say where to get one.
        if works "$found"; then printf '%s' "$found"; return 0; fi
    done
    return 1
}

# The packages that are not installed here, fetched and checked by apt as always, but unpacked beside the environment.
unpack_from_debian() {
    command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1 || return 1
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/root"
    set -- -qq -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" -o "APT::Sandbox::User=$(id -un)" \
        -o Debug::NoLocking=1 -o Acquire::Languages=none -o APT::Install-Recommends=false -o Acquire::Retries=3
    apt-get "$@" update || return 1
    apt-get "$@" --yes --download-only install chromium-headless-shell fonts-dejavu-core || return 1
    for package in "$folder"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$folder/root" || return 1; done
    rm -rf "$folder/lists" "$folder/cache" "$folder/root/usr/share/doc" "$folder/root/usr/share/locale"
    cat >"$folder/fonts.conf" <<END
<?xml version="1.0"?>
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir>$folder/root/usr/share/fonts</dir>
  <cachedir>$folder/fonts-cache</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
END
    libraries=$(find "$folder/root/lib" "$folder/root/usr/lib" -name '*.so*' 2>/dev/null | sed 's|/[^/]*$||' | sort -u | paste -sd: -)
    write_starter "$folder/root/usr/lib/chromium/chromium-headless-shell" \
        "export LD_LIBRARY_PATH='$libraries'" "export FONTCONFIG_FILE='$folder/fonts.conf'"
    works "$folder/chromium"
}

rm -rf "$folder"
mkdir -p "$folder"
if [ -n "${CHROMIUM:-}" ]; then
    write_starter "$CHROMIUM"
elif found=$(of_this_machine); then
    write_starter "$found"
elif ! unpack_from_debian >"$folder/log" 2>&1; then
    rm -f "$folder/chromium"
    {
        echo "There is no Chromium on this machine, and it cannot be unpacked from Debian's packages (the log: $folder/log)."
        echo "Install one, or name one with CHROMIUM=/path/to/chromium, and run: rm .venv/set-up-dev && make setup"
    } >"$folder/why-not"
    cat "$folder/why-not" >&2
fi
