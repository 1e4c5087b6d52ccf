"""`handgrad completion`: lets a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print what SHELL needs to complete handgrad's commands: eval "$(handgrad completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root()
    click.echo(kind(root.command, {}, "handgrad", "_HANDGRAD_COMPLETE").source())
