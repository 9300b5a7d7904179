#!/usr/bin/env bash
# .venv from requirements-dev.lock, each file checked against its hash, and this project in it (editable).
# pip fetches uv (the version and hashes of the lock); uv does the rest. Safe to run twice at once.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .work
exec 9>.work/venv.lock
flock 9

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-python3}
if ! suits "$python"; then
  for python in python3.13 python3.12 python3.11 ""; do suits "$python" && break; done
  if [ -z "$python" ]; then
    echo "Python 3.11 or later is needed, and ${PYTHON:-python3} is not: make PYTHON=/path/to/python3 …" >&2
    exit 1
  fi
fi

# Root's own interpreter (pyenv and the like) is often one that other users cannot run, and a daemon of root runs
# things as other users: the system's, where it will do.
if [ "$python" = python3 ] && [ "$(id -u)" = 0 ] && suits /usr/bin/python3 \
  && /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null; then
  python=/usr/bin/python3
fi

if ! { [ -x .venv/bin/python ] && suits .venv/bin/python; }; then
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian ships both in a package of their own; its name carries the version where it is not the default.
    "$(dirname "$0")/debian.sh" "no-venv-module=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
  fi
  echo "Creating .venv with $("$python" --version)"
  rm -rf .venv
  "$python" -m venv .venv
fi

if [ ! -x .venv/bin/uv ]; then
  awk '/^[a-z]/ { on = /^uv==/ } on' requirements-dev.lock >.work/uv.lock
  .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r .work/uv.lock
fi

echo "Installing the packages of requirements-dev.lock"
export VIRTUAL_ENV=$PWD/.venv
.venv/bin/uv pip sync -q --require-hashes requirements-dev.lock
# hatchling comes from the lock, so nothing unlocked takes part in the build.
.venv/bin/uv pip install -q --no-deps --no-build-isolation --editable .
# Where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), a daemon would compile all of its modules at each start,
# which takes twice as long as the rest of it.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c 'from ray_envd.agent import client, logs, server'
touch .venv/.ready
