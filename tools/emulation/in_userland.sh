#!/bin/sh
# What tools/arm_check does inside an emulated system; /in holds the wheel.
#
#   in_userland.sh BOARD     the profile whose written files stand for the board that the processor is of
set -eu
board=$1
venv=/opt/arm-check
home=/root/arm-check
step() { echo "\$ $*"; }

rm -rf -- "$venv" "$home"
python3 -m venv "$venv"
PATH=$venv/bin:$PATH
step pip install /in/*.whl
pip install --quiet /in/*.whl
pip list --format freeze | grep -v -E '^(pip|setuptools)=='
step uname -sm
uname -sm
mkdir -- "$home"
cd -- "$home"
package=$(python3 -c 'from importlib.util import find_spec; print(find_spec("fedclient").submodule_search_locations[0])')
settings="--config $home/config.toml --state $home/state"

step fedclient init
fedclient $settings init >/dev/null
step fedclient doctor
fedclient $settings doctor
# The doctor needs no more than a device has; what writes models is an extra.
step pip install "fedclient[author]"
pip install --quiet "$(echo /in/*.whl)[author]"
step fedclient model new-head --features 64 --classes 10 -o head.tflite
fedclient model new-head --features 64 --classes 10 -o head.tflite
step fedclient dry-run --model head.tflite --data digits.npz
fedclient dry-run --model head.tflite --data "$package/testing/data/digits.npz" >report
grep -v '^  \(open\|closed\) ' report
step fedclient boards detect --root "$board/capture"
fedclient boards detect --root "$package/hardware/boards/$board/capture" >report
head -n 2 report
