"""`cdn completion`: the script with which a shell completes commands, options and values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from cdn.errors import UsageError
from cdn.reporting import Output

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_obj
def completion(out: Output, shell: str) -> None:
    """Print the script that completes `cdn` in your shell (bash 4.4 or newer, zsh or fish)."""
    maker = get_completion_class(shell)
    if maker is None:
        raise UsageError(f"no completion is known for {shell}")
    # click's `source` asks which bash is installed here; the script may be for another machine.
    script = maker.source_template % maker(click.Command("cdn"), {}, "cdn", "_CDN_COMPLETE").source_vars()
    out.result({"shell": shell, "script": script}, script)
