"""``trace``: what happens to objects, a line each, for ``benchmarks/hit_rates``."""

import json
from pathlib import Path

import click

from ray_envd.agent.cli.common import State, pass_state, print_json, shared_options
from ray_envd.agent.humanize import SIZE_FORMS, parse_bytes


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--max-size", metavar="SIZE", default="100MB", show_default=True, help="End once the file is as large."
)
@shared_options
@pass_state
def trace(state: State, file: Path, max_size: str) -> None:
    """Write down what happens to objects, to replay it: who is used when, built, evicted.

    A line of JSON each: time, owner's uid, kind, digest, and of what is stored or built its size and what it
    took to build. Nothing of runtime envs is in it. It ends with Ctrl-C, with the daemon, or at --max-size.
    """
    try:
        most = parse_bytes(max_size)
    except ValueError as error:
        raise click.BadParameter(f"{error}: {SIZE_FORMS}", param_hint="--max-size") from None
    lines = written = 0
    # Closed with the block, which ends the daemon's part.
    with state.client() as client, file.open("w", encoding="utf-8", buffering=1) as out:
        try:
            for event in client.trace():
                line = json.dumps(event.as_json()) + "\n"
                if written + len(line) > most:
                    break
                out.write(line)
                lines, written = lines + 1, written + len(line)
        except KeyboardInterrupt:
            pass
    if state.json:
        print_json({"lines": lines, "bytes": written})
    else:
        click.echo(f"{lines} lines in {file}")
