#!/usr/bin/env bash
# Every static check, all of them even if one fails; exit 1 if any did.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()

check() { # check NAME COMMAND…: quiet when it is well
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    echo "ok    $name"
  else
    echo "FAIL  $name"
    printf '%s\n' "$output"
    failed+=("$name")
  fi
}

check "ruff check" "$bin/ruff" check --no-fix .
check "ruff format" "$bin/ruff" format --check .
check "mypy" "$bin/mypy"
# The benchmarks, but for what runs on Ray's Python; what they use of tools/ and tests/ is only read.
mapfile -t scripts < <(find benchmarks -name '*.py' ! -name '*_driver.py')
check "mypy benchmarks" env MYPYPATH=dev:benchmarks/support:benchmarks/hit_rates:tools:tests \
  "$bin/mypy" --follow-imports=silent --cache-dir=.mypy_cache/benchmarks "${scripts[@]}"
check "import contracts" "$bin/lint-imports"
check "generated code" "$bin/python" tools/proto.py --check
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
