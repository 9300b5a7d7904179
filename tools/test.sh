#!/usr/bin/env bash
# The whole test suite, in two halves at once: tests on real Ray and in containers wait for processes most of the
# time, while the others look at folders, widths and times, and so run one by one. Arguments go to pytest, to both.
# The output of the first half comes when the other one is over; until then it grows in .work/test/.
# SERIAL=1 runs everything one after the other.
set -uo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python log=.work/test/ray-and-podman.log
mkdir -p "${log%/*}"

half() { # half MARKS PYTEST-ARGUMENT…; that the arguments choose no test of this half (5) is well
  "$python" -m pytest -m "$@"
  local code=$?
  [ $code -eq 5 ] || return $code
}

if [ -n "${SERIAL:-}" ]; then
  half "ray or podman" "$@"
  first=$?
  half "not ray and not podman" "$@"
  exit $((first | $?))
fi
# Each file's tests stay together, since they share a cluster.
half "ray or podman" -n 2 --dist loadfile "$@" >"$log" 2>&1 &
first=$!
trap 'kill -INT $first 2>/dev/null; wait $first; exit 130' INT TERM
half "not ray and not podman" "$@"
second=$?
echo "waiting for the tests on Ray and in containers ($log)"
wait $first
first=$?
cat "$log"
exit $((first | second))
