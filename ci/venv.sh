# shellcheck shell=bash
# Sourced by ci/test and ci/demo: goes to the repository's root; `install EXTRAS` makes .venv if it is
# missing, installs this checkout into it where pyproject.toml changed since, and sets $python.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
root=$PWD

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

base_python() {
    local candidate
    for candidate in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "omendb needs Python 3.10 or newer; none was found on PATH."
}

make_venv() {
    local base
    base=$(base_python)
    printf 'making .venv with %s\n' "$("$base" --version)"
    if ! "$base" -m venv .venv; then
        rm -rf .venv
        fail "$base cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)."
    fi
}

python_of() { # Windows keeps it elsewhere
    if [[ -d $1/Scripts ]]; then printf '%s\n' "$1/Scripts/python.exe"; else printf '%s\n' "$1/bin/python"; fi
}

quiet_pip() {
    local interpreter=$1
    shift
    "$interpreter" -m pip --quiet --disable-pip-version-check "$@"
}

install() {
    [[ -d .venv ]] || make_venv
    python=$(python_of "$root/.venv")
    # The folder is part of the stamp: an editable install remembers where the checkout was.
    local extras=$1 wanted stamp
    wanted=$root$(<pyproject.toml)
    stamp=.venv/installed${extras:+-${extras//,/-}}
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        printf 'installing omendb into .venv (a minute or two the first time)\n'
        quiet_pip "$python" install --editable ".${extras:+[$extras]}"
        printf '%s\n' "$wanted" >"$stamp"
    fi
}
