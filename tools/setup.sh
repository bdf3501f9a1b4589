# Sourced by the tools beside it: makes a Python environment once, with what a tool needs.
#
#   PYTHON           the interpreter to use instead of the first suitable one
#   FEDCLIENT_VENV   where the environment is kept instead of <repository>/.venv
#
# An environment is made anew when pyproject.toml or this file changes, and otherwise needs no network.

tool=${0##*/}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=${FEDCLIENT_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
[ -n "${HOME-}" ] || unset HOME # pip would take an empty one for the root directory
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s: %s\n' "$tool" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# suits PYTHON OLDEST NEWEST: does it run, have one of these 3.x versions, and venv with pip?
suits() {
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, $2) <= sys.version_info[:2] <= (3, $3))" 2>/dev/null
}

# find_python OLDEST NEWEST: sets $python, or fails
find_python() {
    if [ -n "${PYTHON-}" ]; then
        python=$PYTHON
        suits "$python" "$1" "$2" || die "PYTHON=$PYTHON is not Python 3.$1 or newer with venv and pip"
        return 0
    fi
    for python in python3 python3.13 python3.12 python3.11 python3.10; do
        if suits "$python" "$1" "$2"; then return 0; fi
    done
    return 1
}

# make_venv FOLDER: an environment of $python, unless a working one is there
make_venv() {
    new_pip='import pip, sys; sys.exit([int(n) for n in pip.__version__.split(".")[:2]] < [25, 1])'
    if "$1/bin/python" -c "$new_pip" 2>/dev/null; then return 0; fi # it reads dependency groups
    mkdir -p -- "$1" 2>/dev/null || die "cannot write $1: set FEDCLIENT_VENV to a folder of yours"
    if ! "$1/bin/python" -c 'import pip' 2>/dev/null; then
        if [ -f "$1/pyvenv.cfg" ]; then clear=--clear; else clear=; fi # never a folder that was something else
        "$python" -m venv $clear -- "$1" || die "$python cannot make an environment in $1"
    fi
    install "$1" 'pip>=25.1' || die "pip could not be brought up to date in $1; what it said is above"
}

# install FOLDER ARGUMENT...: what pip says is shown only when it fails
install() {
    (
        pip=$1/bin/python
        shift
        said=$("$pip" -m pip install --quiet "$@" 2>&1) || {
            printf '%s\n' "$said" >&2
            exit 1
        }
    )
}

# current FOLDER NAME: was NAME installed there from these very files?
current() {
    [ "$(cat -- "$1/.ready-$2" 2>/dev/null)" = "$(stamp)" ] && "$1/bin/python" -c '' 2>/dev/null
}

stamp() { printf '%s %s\n' "$root" "$(cat -- "$root/pyproject.toml" "$root/tools/setup.sh" | cksum)"; }

# need NAME ARGUMENT...: an environment in $venv with these arguments of pip installed; $newest: the last 3.x for it
need() {
    name=$1
    shift
    if current "$venv" "$name"; then return 0; fi
    find_python 10 "${newest:-99}" || die "no Python >= 3.10${newest:+ and <= 3.$newest} with venv found: install python3 and python3-venv, or set PYTHON"
    say "setting up $venv with $("$python" -V 2>&1), once"
    make_venv "$venv"
    install "$venv" "$@" || die "the installation into $venv failed; what pip said is above"
    stamp >"$venv/.ready-$name"
}
