#!/usr/bin/env bash
# A Ray installation for tests and demo: `ray.sh VERSION [FOLDER]`, by default .work/ray-VERSION, from the version's
# lock. 2.6.3 serves for its generated gRPC stubs alone. The Python is that of .venv where Ray has a wheel for it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
first=.work/ray-$version
target=$(realpath -m "${2:-$first}")
lock=tests/ray/locks/ray-$version.lock
uv=$PWD/.venv/bin/uv
mkdir -p .work
exec 9>".work/ray-$version.lock"
flock 9
# Somebody else may have made it while we waited.
[ "$target/.ready" -nt "$lock" ] && [ "$target/.ready" -nt tools/ray.sh ] && exit 0

echo "Installing Ray $version into $target"
rm -rf "$target"
if [ "$version" = 2.6.3 ]; then
  # Its wheel stops at Python 3.11, its stubs do not: take them out, beside a grpcio that any Python has.
  "$uv" venv -q --python .venv/bin/python "$target"
  awk '/^[a-z]/ { on = !/^ray==/ } on' "$lock" >"$target/tools.lock"
  awk '/^[a-z]/ { on = /^ray==/ } on' "$lock" >"$target/ray.lock"
  "$uv" pip sync -q --python "$target" --require-hashes "$target/tools.lock"
  "$uv" pip install -q --target "$target/wheel" --no-deps --python-version 3.11 --only-binary :all: \
    --require-hashes -r "$target/ray.lock"
  mv "$target/wheel/ray/core/generated" "$target/generated"
  rm -rf "$target/wheel"
else
  # A cluster is a dozen Python processes, which start three times as fast with bytecode, and may not write any.
  compile=()
  [ "$target" != "$(realpath -m "$first")" ] || compile=(--compile-bytecode)
  ours=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
  for python in "$ours" 3.13 3.12 3.11; do
    "$uv" venv -q --clear --python "$python" "$target"
    if "$uv" pip sync -q --python "$target" --only-binary ray --require-hashes "${compile[@]}" "$lock" \
      2>"$target/error"; then
      rm "$target/error"
      break
    fi
    # Only "no wheel for this Python" is worth another Python.
    grep -qi "wheel" "$target/error" || { cat "$target/error" >&2; exit 1; }
  done
  [ ! -e "$target/error" ] || { cat "$target/error" >&2; exit 1; }
  if [ ${#compile[@]} = 0 ] && [ -e "$first/.ready" ]; then
    (cd "$first" && find lib -name '*.pyc' -print0 | xargs -0 -r cp -l --parents -t "$target")
  fi
fi
touch "$target/.ready"
