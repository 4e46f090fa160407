#!/usr/bin/env bash
# Makes .venv/bin/icefs work on a bare Debian or Ubuntu machine: FUSE, a Python of at least 3.12, and the locked
# dependencies. Quick when there is nothing to do; says what it does and how far it is when there is.
#
#   scripts/setup.sh demo     what icefs needs, and the two other Zarr libraries of `make demo`
#   scripts/setup.sh dev      also linters, and what tests and benchmarks import
#   scripts/setup.sh tests    also the programs that the tests try on mounts
set -euo pipefail
cd "$(dirname "$0")/.."

level=${1:-dev}
case "$level" in demo | dev | tests) ;; *) echo "usage: scripts/setup.sh demo|dev|tests" >&2; exit 2 ;; esac
# What is installed for one level is enough for those before it.
stamps=(.venv/.setup-tests)
[ "$level" = tests ] || stamps+=(.venv/.setup-dev)
[ "$level" != demo ] || stamps+=(.venv/.setup-demo)
# Programs that write to mounts in tests: Debian packages of those names, and a library for JavaScript. What comes
# from PyPI, node and rclone among it, is among the locked dependencies.
programs=(git rsync unzip groff zsh fish)
# Programs and libraries that read views in tests: Debian packages, each with a file that tells that it is there.
judges=(
    netcdf-bin /usr/bin/ncdump
    nco /usr/bin/ncks
    cdo /usr/bin/cdo
    gdal-bin /usr/bin/gdalinfo
    python3-gdal /usr/lib/python3/dist-packages/osgeo/gdal.py
    python3-zarr /usr/lib/python3/dist-packages/zarr/__init__.py
    r-base-core /usr/bin/Rscript
    r-cran-ncdf4 /usr/lib/R/site-library/ncdf4/DESCRIPTION
    octave /usr/bin/octave-cli
    octave-netcdf /usr/share/doc/octave-netcdf/copyright
)
ministack_lock=tests/support/ministack/requirements.txt
ministack=.cache/ministack
# Of npm, exactly as locked, each in a directory of its own below .cache.
scripts=(zarrita azurite)

missing_programs() {
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || printf '%s\n' "$program"
    done
    # Booted in namespaces of its own, for the tests of the units; to install it starts nothing.
    [ -x /lib/systemd/systemd ] || printf 'systemd\n'
    for ((at = 0; at < ${#judges[@]}; at += 2)); do
        [ -e "${judges[at + 1]}" ] || printf '%s\n' "${judges[at]}"
    done
}
tests_are_ready() {
    [ -z "$(missing_programs)" ] && [ -z "$(missing_scripts)" ] &&
        cmp -s "$ministack_lock" "$ministack/installed-requirements.txt"
}
missing_scripts() {
    for name in "${scripts[@]}"; do
        cmp -s "tests/support/$name/package-lock.json" ".cache/$name/installed-lock.json" || printf '%s\n' "$name"
    done
}

if { [ "$level" != tests ] || tests_are_ready; } && [ -x .venv/bin/icefs ] && command -v fusermount3 >/dev/null; then
    for stamp in "${stamps[@]}"; do
        [ "$stamp" -nt uv.lock ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt scripts/setup.sh ] && exit 0
    done
fi

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Runs a command that takes long: says what it does, and every ten seconds that it still does.
# working WHAT [DIRECTORY THAT GROWS] -- COMMAND
working() {
    local what=$1 grows=
    shift
    [ "$1" = -- ] || { grows=$1; shift; }
    shift
    say "$what …"
    local start=$SECONDS
    (
        while sleep 10; do
            size=
            [ -n "$grows" ] && size=$(du -sm "$grows" 2>/dev/null | cut -f1)
            say "… $((SECONDS - start)) s${size:+, $size MB in $grows so far}"
        done
    ) &
    local heart=$! status=0
    "$@" || status=$?
    { kill "$heart" && wait "$heart"; } 2>/dev/null || true
    return "$status"
}

# 1. A Python of at least 3.12 that runs here already; without one, uv brings it further down.
python=
candidates=(python3.13 python3.12 python3.14 python3)
for dir in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin; do
    candidates+=("$dir/python3")
done
for candidate in "${candidates[@]}"; do
    found=$(command -v "$candidate" 2>/dev/null) || continue
    if "$found" -c 'import sys, sqlite3, ssl; sys.exit(not (3, 12) <= sys.version_info < (3, 15))' 2>/dev/null; then
        python=$found
        break
    fi
done

# 2. Debian packages: FUSE itself; for tests and benchmarks what it takes to build pyfuse3, which they compare with.
missing=()
command -v fusermount3 >/dev/null || missing+=(fuse3)
if [ "$level" != demo ]; then
    command -v gcc >/dev/null || missing+=(gcc libc6-dev)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
    pkg-config --exists fuse3 2>/dev/null || missing+=(libfuse3-dev)
    if [ -n "$python" ]; then
        headers=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))')
        [ -e "$headers" ] || missing+=("$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
    fi
fi
if [ "$level" = tests ]; then
    while read -r program; do missing+=("$program"); done < <(missing_programs)
fi
if ! command -v uv >/dev/null && [ ! -x .cache/uv/bin/uv ]; then
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
install_packages() {
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null ||
        die "please install what Debian calls ${missing[*]}, then run this again"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "as root, please run: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    working "installing Debian packages ${as_root[*]:+with sudo }(${missing[*]})" -- install_packages
fi

# 3. uv, from PATH or in a small environment of its own.
install_uv() {
    python3 -m venv .cache/uv
    .cache/uv/bin/pip install --quiet --disable-pip-version-check uv
}
if command -v uv >/dev/null; then
    uv=uv
else
    uv=.cache/uv/bin/uv
    [ -x "$uv" ] || working "installing uv, which installs the rest, into .cache/uv" -- install_uv
fi
if [ -z "$python" ]; then
    say "no Python 3.12 or newer here; uv installs one into your home directory"
    python=3.13
fi

# 4. The environment, exactly as locked. What another level has installed stays.
if [ "$level" = demo ]; then
    groups=(--inexact --no-default-groups --group demo)
    size="about 260 MB"
else
    groups=()
    size="about 1.4 GB, minutes on a slow line; 'make demo' alone needs a fifth of it"
fi
working "installing the locked Python packages into .venv ($size)" .venv -- \
    "$uv" sync --quiet --locked --python "$python" "${groups[@]}"

# 5. The bytecode of all that icefs imports. A user who may not write it (in another user's installation), or who has set
# PYTHONDONTWRITEBYTECODE, would compile it at each start, for twice as long as everything else takes.
working "compiling them" -- env -u PYTHONDONTWRITEBYTECODE .venv/bin/python scripts/import_all.py

# 6. What comes from npm: a Zarr library for JavaScript, and an emulator of Azure Blob Storage.
install_script() {
    local lock=tests/support/$1/package-lock.json into=.cache/$1 npm="$PWD/.venv/bin/npm"
    mkdir -p "$into"
    cp "${lock%/*}/package.json" "$lock" "$into/"
    (cd "$into" && "$npm" ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
    cp "$lock" "$into/installed-lock.json"
}
if [ "$level" = tests ]; then
    while read -r name; do
        working "installing $name, which tests use, into .cache/$name" ".cache/$name" -- install_script "$name"
    done < <(missing_scripts)
fi

# 7. ministack, a server that speaks S3, exactly as locked. It needs one version of botocore, which icefs does not.
install_ministack() {
    "$uv" venv --quiet --clear --python .venv/bin/python "$ministack"
    "$uv" pip install --quiet --python "$ministack/bin/python" --require-hashes -r "$ministack_lock"
    cp "$ministack_lock" "$ministack/installed-requirements.txt"
}
if [ "$level" = tests ] && ! cmp -s "$ministack_lock" "$ministack/installed-requirements.txt"; then
    working "installing ministack, an S3 server, into $ministack" -- install_ministack
fi
touch "${stamps[-1]}"
say "done: .venv/bin/icefs"
