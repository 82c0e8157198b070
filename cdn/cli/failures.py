"""From an exception to one sentence and an exit status."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback

import click

from cdn.cli.exit_codes import INTERNAL_ERROR, INTERRUPTED
from cdn.errors import CdnError

DEBUG_VARIABLE = "CDN_DEBUG"


def report_failure(error: BaseException, *, debug: bool) -> int:
    """Tells the user on standard error what went wrong, in one sentence.

    Args:
        error: what ended the command.
        debug: whether to show the traceback as well.

    Returns:
        The exit status.
    """
    if debug and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    match error:
        case click.exceptions.NoArgsIsHelpError():
            _say(error.format_message())
            return error.exit_code
        case click.UsageError():
            _say(f"cdn: {error.format_message()}")
            if error.ctx is not None:
                _say(f"Try `{error.ctx.command_path} --help`.")
            return error.exit_code
        case click.ClickException():
            _say(f"cdn: {error.format_message()}")
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            _say("cdn: interrupted")
            return INTERRUPTED
        case CdnError():
            _say(f"cdn: {error}")
            return error.exit_code
        case OSError():
            _say(f"cdn: {_operating_system_said(error)}")
            return CdnError.exit_code
        case _:
            _say(f"cdn: internal error: {_one_line(error)}; {_where_to_look(error, debug=debug)}")
            return INTERNAL_ERROR


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:
        # Nobody reads standard error any more; the exit status still tells.
        return


def _operating_system_said(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, str | bytes) else reason


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _where_to_look(error: BaseException, *, debug: bool) -> str:
    if debug:
        return "the traceback is above"
    try:
        handle, path = tempfile.mkstemp(prefix="cdn-", suffix=".traceback")  # readable by this user alone
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{DEBUG_VARIABLE}=1 shows where"
    return f"please report it with the file {path}"
