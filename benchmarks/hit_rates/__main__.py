"""Replays workloads against ray-envd's eviction and others': ``python benchmarks/hit_rates --help``.

What is measured, and what would make it unfair, stands in README.md beside this file.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

# Found by the line above:
from figures import machine
from recorded import read_trace
from report import charts, markdown, write_json
from study import FRACTIONS, study
from validate import validate
from workloads import generated


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2), help="of the generated workloads")
    parser.add_argument(
        "--trace", type=Path, action="append", default=[], help="a file of `ray-envd trace`, too"
    )
    parser.add_argument("--only", help="workloads whose name has this in it")
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS, help="of the working set")
    parser.add_argument("--out", type=Path, help="the stem of .json, .md, .png and .svg to write")
    parser.add_argument(
        "--validate", action="store_true", help="compare the harness with libcachesim, only that"
    )
    return parser.parse_args()


def main() -> int:
    """Runs it; the exit code is 1 if the harness differs from libcachesim."""
    asked = _arguments()
    if asked.validate:
        return 0 if validate(sys.stdout) else 1
    workloads = [each for seed in asked.seeds for each in generated(seed)]
    workloads += map(read_trace, asked.trace)
    workloads = [each for each in workloads if asked.only is None or asked.only in each.name]
    found = study(workloads, asked.fractions, sys.stderr)
    found.circumstances = {**machine(HERE), "seeds": list(asked.seeds)}
    text = markdown(found)
    print(text)
    if asked.out is not None:
        write_json(found, asked.out.with_suffix(".json"))
        asked.out.with_suffix(".md").write_text(text)
        charts(found, asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
