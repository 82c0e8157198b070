"""The entry point: finds the command, imports only that, and turns what ends it into a sentence and an exit status.

This is the one place that reads the process environment:

- ``CDN_DEBUG`` (any value): show tracebacks.
- ``CDN_LOG_FORMAT`` (``console`` or ``json``): how log lines look, where ``--log-format`` says nothing.
- ``NO_COLOR`` (any value): no colours; rich, which draws tables and bars, looks for it too.
- ``CDN_FAULT`` (see `cdn.telemetry.Fault`): die at a named fault point; for tests.
"""

from __future__ import annotations

import gc
import io
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast, get_args

import click

from cdn import __version__
from cdn.cli.commands import ENTRIES, SECTIONS, Entry
from cdn.cli.examples import add_examples
from cdn.cli.exit_codes import EXIT_CODES, OUTPUT_CLOSED
from cdn.cli.failures import DEBUG_VARIABLE, report_failure
from cdn.cli.options import LOG_FORMAT_VARIABLE, add_reporting_options, reporting_options
from cdn.cli.output import CommandOutput, OutputError, Settings
from cdn.errors import ConfigError
from cdn.telemetry import Fault, LogFormat, install_fault_hook

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FAULT_VARIABLE = "CDN_FAULT"
_COLLECTOR_THRESHOLDS = (20_000, 20, 50)
"""How many new objects the search for cyclic garbage waits for: with Python's 700 it is 8 % of a large publication."""


class LazyGroup(click.Group):
    """A group that knows its commands' names from a table and imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in ENTRIES.items() if _is_present(entry)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        entry = ENTRIES.get(cmd_name)
        if entry is None or not _is_present(entry):
            return None
        command = add_examples(add_reporting_options(_load(entry)), cmd_name)
        self.commands[cmd_name] = command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            raise click.exceptions.NoSuchCommand(name, possibilities=self.list_commands(ctx), ctx=ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command. What it returns is no exit status; a failure is an exception."""
        if ctx.obj is None:
            ctx.obj = CommandOutput()
        if isinstance(ctx.obj, CommandOutput):
            ctx.obj.start_logging()
        try:
            super().invoke(ctx)
        except BrokenPipeError as error:
            if _output_is_closed():
                ctx.exit(OUTPUT_CLOSED)
            # Not let through: click would take it for the same and say nothing.
            raise click.ClickException("a connection was closed by the other side") from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Completes command names from the table; click would import every command for its help."""
        from click.shell_completion import CompletionItem

        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=ENTRIES[name].summary) for name in names] + options

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, ENTRIES))
        for heading, entries in SECTIONS.items():
            rows = [(entry.name.ljust(width), entry.summary) for entry in entries if _is_present(entry)]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code).rjust(3), meaning) for code, meaning in EXIT_CODES.items()])


def _is_present(entry: Entry) -> bool:
    return find_spec(entry.module) is not None


def _load(entry: Entry) -> click.Command:
    command = getattr(import_module(entry.module), entry.attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{entry.target} is not a command")
    return command


@click.group(
    cls=LazyGroup,
    params=list(reporting_options()),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="stratocast", message="%(prog)s %(version)s")
def cdn() -> None:
    """Publish, replicate, cache and read large file trees.

    Every command explains itself with `cdn COMMAND --help`, and the options below may also stand after the command.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        arguments: the words after `cdn`; those of the process if None.

    Returns:
        The exit status.
    """
    try:
        gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        _let_any_name_through()
        output = _read_environment()
        status = cdn.main(arguments, "cdn", "_CDN_COMPLETE", standalone_mode=False, obj=output)
    except Exception as error:  # noqa: BLE001 -- the outermost edge: a user never sees a traceback unasked
        status = report_failure(error, debug=bool(os.environ.get(DEBUG_VARIABLE)))
    except KeyboardInterrupt as error:
        status = report_failure(error, debug=False)
    return _flush(status or 0)


def _read_environment() -> CommandOutput:
    if fault := os.environ.get(FAULT_VARIABLE):
        install_fault_hook(Fault.parse(fault).hook())
    log_format = os.environ.get(LOG_FORMAT_VARIABLE, "console")
    if log_format not in get_args(LogFormat):
        raise ConfigError(
            f"{LOG_FORMAT_VARIABLE} is {log_format!r}; it must be one of {', '.join(get_args(LogFormat))}"
        )
    return CommandOutput(Settings(log_format=cast("LogFormat", log_format), colours=not os.environ.get("NO_COLOR")))


def _let_any_name_through() -> None:
    """Prints file names that are not valid in the terminal's encoding as the bytes they are, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() == "utf-8" else "backslashreplace")


def _output_is_closed() -> bool:
    """Whether it is standard output whose reader has gone, rather than a socket somewhere."""
    try:
        sys.stdout.flush()
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError):
        return False


def _flush(status: int) -> int:
    """Writes what is still buffered, and keeps the interpreter from complaining at exit where nobody reads any more."""
    try:
        sys.stdout.flush()
    except OSError as error:
        closed = os.open(os.devnull, os.O_WRONLY)
        os.dup2(closed, sys.stdout.fileno())
        os.close(closed)
        if isinstance(error, BrokenPipeError):
            return OUTPUT_CLOSED
        return report_failure(OutputError(error), debug=False)
    return status
