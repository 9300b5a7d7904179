"""The ``ray-envd`` command.

A command's module is imported when it runs, so that ``--help`` and completion start fast, and so that the
command line of a machine without Ray, grpc or a daemon still says what is wrong.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from ray_envd import __version__
from ray_envd.agent.cli import failures
from ray_envd.agent.cli.common import EXIT_CODES, State, shared_options

_PACKAGE = "ray_envd.agent.cli"
#: Command -> its module and what `--help` says about it.
COMMANDS = {
    "serve": ("daemon", "Run the daemon of this node."),
    "create": ("envs", "Prepare a runtime env, so that workers find it ready."),
    "run": ("envs", "Run a command in a runtime env, as a worker would be started."),
    "prefetch": ("prefetch", "Prepare runtime envs before anybody asks for them."),
    "ls": ("store", "List what is stored."),
    "stats": ("store", "Show figures of the daemon."),
    "gc": ("store", "Remove what is not used, least worth first."),
    "rm": ("store", "Remove objects that nobody uses."),
    "pin": ("store", "Keep objects until they are unpinned."),
    "unpin": ("store", "Let objects be collected again."),
    "verify": ("verify", "Read everything that is stored, and find what is damaged."),
    "trace": ("trace", "Write down what happens to objects, to replay it."),
    "attach": ("node", "Make the Ray of an interpreter use ray-envd."),
    "detach": ("node", "Give an interpreter's Ray its own agent back."),
    "config": ("node", "Print the effective settings and where each came from."),
    "doctor": ("node", "Check this node; each finding comes with its remedy."),
    "drain": ("daemon", "End the daemon once nothing is in flight."),
    "completion": ("completion", "Print the completion script of a shell."),
}
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {int(code):>3}  {text}" for code, text in EXIT_CODES.items())


class LazyGroup(click.Group):
    """Knows its commands by name, and turns every failure into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of the table, which is by use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Imports the module of the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{_PACKAGE}.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Says what was perhaps meant."""
        import difflib  # noqa: PLC0415 - only where something is misspelt

        close = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and close:
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(  # type: ignore[override] # click overloads it by standalone_mode, which is always ours here
        self, args: Sequence[str] | None = None, *_: Any, **extra: Any
    ) -> None:
        """Runs a command and exits; a command returns its exit code, or None for 0."""
        given = list(sys.argv[1:] if args is None else args)
        # Messages name the command that people know, also under `python -m ray_envd`.
        extra |= {"standalone_mode": False, "prog_name": "ray-envd"}
        try:
            code = super().main(given, **extra)
        except Exception as error:  # noqa: BLE001 - the one place where failures become exit codes
            failure = failures.of(error)
            if failure.code == "internal" and os.environ.get("RAY_ENVD_LOG_LEVEL", "").lower() == "debug":
                traceback.print_exc()
            failures.show(failure, as_json=_wants_json(given))
            sys.exit(int(failure.exit))
        sys.exit(code if isinstance(code, int) else 0)


def _wants_json(args: Sequence[str]) -> bool:
    """Also where the command line was not understood."""
    own = args[: args.index("--")] if "--" in args else args
    return "--json" in own


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="ray-envd")
@shared_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Prepares, caches and collects the runtime environments of Ray's workers on this node.

    --socket, --config and --json may stand before or after the command's name.
    """
    ctx.ensure_object(State)


def main() -> None:
    """The entry point of ``ray-envd`` and ``python -m ray_envd``."""
    cli.main()
