"""The options every command has: how it reports.

They are added to a command when it is loaded, so that the command itself, which lives below this package, neither
declares nor imports them. Each changes the `CommandOutput` in ``ctx.obj``; a more specific place on the command line
wins, so that ``cdn --json ls`` and ``cdn ls --json`` mean the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import click

from cdn.cli.output import CommandOutput, Settings
from cdn.telemetry import LogFormat

LOG_FORMAT_VARIABLE = "CDN_LOG_FORMAT"
_NUMBERS = (type(click.INT), type(click.FLOAT))


def add_reporting_options(command: click.Command) -> click.Command:
    """Adds the reporting options to a command and to every command below it, and returns it.

    A group gets none itself: they would stand between its name and its subcommand's. Options that take a number are
    shown as taking N, where click would say INTEGER RANGE.
    """
    if isinstance(command, click.Group):
        for below in command.commands.values():
            # The whole first sentence, wrapped; click by itself would cut it off.
            below.short_help = below.short_help or _first_paragraph(below.help or "")
            add_reporting_options(below)
    else:
        for parameter in command.params:
            if isinstance(parameter.type, _NUMBERS) and isinstance(parameter, click.Option) and not parameter.count:
                parameter.metavar = parameter.metavar or "N"
        taken = {name for parameter in command.params for name in parameter.opts}
        command.params.extend(option for option in reporting_options() if taken.isdisjoint(option.opts))
    return command


def _first_paragraph(text: str) -> str:
    return " ".join(text.partition("\n\n")[0].split())


def reporting_options() -> list[click.Option]:
    """Makes the options anew, since click options belong to one command."""
    return [
        click.Option(
            ["--json", "json_wanted"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_changes(lambda value: {"json": value}),
            help="Print one JSON object instead of text.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_changes(lambda value: {"quiet": value}),
            help="Say nothing but the result and warnings.",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            default=None,
            expose_value=False,
            callback=_changes(lambda value: {"verbosity": value}),
            help="Log what is being done; twice for every step.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(get_args(LogFormat)),
            expose_value=False,
            callback=_changes(lambda value: {"log_format": value}),
            help=f"How log lines look.  [default: ${LOG_FORMAT_VARIABLE}, else console]",
        ),
    ]


def _changes(setting: Callable[[Any], dict[str, Any]]) -> Callable[[click.Context, click.Parameter, Any], None]:
    def change(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if not value or context.resilient_parsing:
            return
        before = context.obj if isinstance(context.obj, CommandOutput) else CommandOutput()
        settings: Settings = replace(before.settings, **setting(value))
        context.obj = replace(before, settings=settings)
        context.obj.start_logging()

    return change
