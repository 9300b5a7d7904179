"""Makes the page and the chart of a run from its JSON: ``results.py DATE.json``.

``make bench-report FROM=DATE.json`` runs it, with a Python that has matplotlib. ``DATE.md``, ``DATE.png`` and
``DATE.svg`` are written beside the JSON. Needs nothing that ran the benchmarks.
"""

import json
import sys
from pathlib import Path

from chart import bars, draw
from page import markdown


def main(path: Path) -> int:
    """The command."""
    run = json.loads(path.read_text())
    has_chart = any(bars(run))
    path.with_suffix(".md").write_text(markdown(run, with_chart=has_chart))
    written = [".md"]
    if has_chart:
        draw(run, path.with_suffix(""))
        written += [".png", ".svg"]
    print(f"{path.with_suffix('')}: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
