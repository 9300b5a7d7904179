"""``completion``: the script that a shell sources."""

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_RAY_ENVD_COMPLETE"
_HOW = {
    "bash": 'eval "$(ray-envd completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(ray-envd completion zsh)" in ~/.zshrc',
    "fish": "ray-envd completion fish > ~/.config/fish/completions/ray-envd.fish",
}


@click.command(epilog="\b\nTo have it in every shell:\n" + "\n".join(f"  {how}" for how in _HOW.values()))
@click.argument("shell", type=click.Choice(sorted(_HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click knows all three
    click.echo(script(ctx.find_root().command, {}, "ray-envd", _VARIABLE).source())
