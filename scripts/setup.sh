#!/usr/bin/env bash
# Makes .venv/bin/icefs work on a bare Debian or Ubuntu machine: FUSE, what the benchmarks' pyfuse3 needs to build, a
# Python of at least 3.12, and the locked dependencies. Quick when there is nothing to do.
#
#   scripts/setup.sh          what icefs needs
#   scripts/setup.sh tests    also the programs that the tests try on mounts
set -euo pipefail
cd "$(dirname "$0")/.."

for_tests=no
[ "${1:-}" = tests ] && for_tests=yes
stamp=.venv/.setup-stamp
# Programs that write to mounts in tests: Debian packages of those names, and a library for JavaScript. What comes
# from PyPI, node and rclone among it, is among the locked dependencies.
programs=(git rsync unzip groff zsh fish)
zarrita_lock=tests/support/zarrita/package-lock.json
zarrita=.cache/zarrita

missing_programs() {
    for program in "${programs[@]}"; do
        command -v "$program" >/dev/null || printf '%s\n' "$program"
    done
    # Booted in namespaces of its own, for the tests of the units; to install it starts nothing.
    [ -x /lib/systemd/systemd ] || printf 'systemd\n'
}
tests_are_ready() {
    [ -z "$(missing_programs)" ] && cmp -s "$zarrita_lock" "$zarrita/installed-lock.json"
}

if { [ "$for_tests" = no ] || tests_are_ready; } && [ -x .venv/bin/icefs ] && [ "$stamp" -nt uv.lock ] && [ "$stamp" -nt pyproject.toml ] &&
    [ "$stamp" -nt scripts/setup.sh ] && command -v fusermount3 >/dev/null; then
    exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

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

# 2. Debian packages: FUSE itself, and what it takes to build pyfuse3, which the benchmarks compare with.
missing=()
command -v fusermount3 >/dev/null || missing+=(fuse3)
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v pkg-config >/dev/null || missing+=(pkg-config)
pkg-config --exists fuse3 2>/dev/null || missing+=(libfuse3-dev)
if [ "$for_tests" = yes ]; then
    while read -r program; do missing+=("$program"); done < <(missing_programs)
fi
if [ -n "$python" ]; then
    headers=$("$python" -c 'import os, sysconfig; print(os.path.join(sysconfig.get_path("include"), "Python.h"))')
    [ -e "$headers" ] || missing+=("$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")
fi
if ! command -v uv >/dev/null && [ ! -x .cache/uv/bin/uv ]; then
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null ||
        die "please install the FUSE 3 library with headers, fusermount3, pkg-config, gcc and Python's headers, then run this again"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "as root, please run: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing Debian packages ${as_root[*]:+with sudo }(${missing[*]})"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
fi

# 3. uv, from PATH or in a small environment of its own.
if command -v uv >/dev/null; then
    uv=uv
else
    uv=.cache/uv/bin/uv
    if [ ! -x "$uv" ]; then
        say "installing uv into .cache/uv"
        python3 -m venv .cache/uv
        .cache/uv/bin/pip install --quiet --disable-pip-version-check uv
    fi
fi
if [ -z "$python" ]; then
    say "no Python 3.12 or newer here; uv installs one into your home directory"
    python=3.13
fi

# 4. The environment, exactly as locked.
[ -x .venv/bin/python ] || say "making .venv"
"$uv" sync --quiet --locked --python "$python"

# 5. The bytecode of all that icefs imports: who may not write it (another user's installation), or is told not to
# (PYTHONDONTWRITEBYTECODE), would compile it at each start, for twice as long as everything else takes.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python scripts/import_all.py

# 6. zarrita.js, exactly as locked, in a directory of its own.
if [ "$for_tests" = yes ] && ! cmp -s "$zarrita_lock" "$zarrita/installed-lock.json"; then
    say "installing zarrita.js into $zarrita"
    mkdir -p "$zarrita"
    cp "${zarrita_lock%/*}/package.json" "$zarrita_lock" "$zarrita/"
    npm="$PWD/.venv/bin/npm"
    (cd "$zarrita" && "$npm" ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
    cp "$zarrita_lock" "$zarrita/installed-lock.json"
fi
touch "$stamp"
say "done: .venv/bin/icefs"
