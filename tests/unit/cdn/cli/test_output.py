"""The three ways of speaking: terminal, plain, JSON."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum

import pytest

from cdn.cli.output import CommandOutput, Settings
from cdn.hashing import Algorithm, digest_of
from cdn.reporting import Table
from cdn.telemetry import NullProgress

plain = CommandOutput()
as_json = CommandOutput(Settings(json=True))
quiet = CommandOutput(Settings(quiet=True))

TAGS = Table(("tag", "revision", "size"), [("v1", 3, None), ("nightly-2026", 1200, 2.5)], title="Tags")


def on_a_terminal(program: str, columns: int = 100) -> tuple[str, str]:
    """Runs a program whose standard error is a terminal, and standard output a pipe; returns what each got."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        seen = b""
        try:
            while piece := os.read(controller, 65536):
                seen += piece
        except OSError:  # Linux says EIO when the last writer has gone
            pass
        output = process.stdout.read()
    os.close(controller)
    assert process.returncode == 0, seen
    return output.decode(), seen.decode()


def test_without_json_the_text_is_printed_and_the_document_is_not(capsys):
    plain.result({"revision": 3}, "now at revision 3", "and that is all")
    assert capsys.readouterr().out == "now at revision 3\nand that is all\n"


def test_with_json_the_document_is_one_line_and_nothing_else(capsys):
    as_json.result({"revision": 3, "tags": ("a",)}, "now at revision 3")
    assert capsys.readouterr().out == '{"revision": 3, "tags": ["a"]}\n'


def test_our_values_have_a_json_form(capsys):
    @dataclass(frozen=True, slots=True)
    class Point:
        x: int

    class Colour(Enum):
        RED = "red"

    digest = digest_of(Algorithm.SHA1, b"")
    as_json.result({"a": Point(1), "b": Colour.RED, "c": {"y", "x"}, "d": b"\xff", "e": digest})
    assert json.loads(capsys.readouterr().out) == {
        "a": {"x": 1},
        "b": "red",
        "c": ["x", "y"],
        "d": "ff",
        "e": str(digest),
    }


def test_a_table_is_aligned_with_numbers_to_the_right(capsys):
    plain.result({}, TAGS)
    assert capsys.readouterr().out.splitlines() == [
        "Tags",
        "tag           revision  size",
        "v1                   3",
        "nightly-2026      1200  2.50",
    ]


def test_an_empty_table_shows_its_headings(capsys):
    plain.result({}, Table(("tag", "revision"), []))
    assert capsys.readouterr().out == "tag  revision\n"


def test_a_listing_is_lines_or_one_object_with_all_items(capsys):
    for output in (plain, as_json):
        with output.listing("entries", {"repository": "a.example.org"}) as listing:
            listing.add({"path": "/a"}, "/a")
            listing.add({"path": "/b"}, "/b")
            listing.end({"count": 2}, "2 entries")
    text = capsys.readouterr().out
    assert text.startswith("/a\n/b\n2 entries\n{")
    assert json.loads(text.partition("2 entries\n")[2]) == {
        "repository": "a.example.org",
        "entries": [{"path": "/a"}, {"path": "/b"}],
        "count": 2,
    }


def test_an_empty_listing_is_valid_json(capsys):
    with as_json.listing("entries"):
        pass
    assert json.loads(capsys.readouterr().out) == {"entries": []}


def test_a_listing_that_fails_half_way_is_not_taken_for_a_whole_one(capsys):
    with pytest.raises(OSError, match="gone"), as_json.listing("entries") as listing:
        listing.add({"path": "/a"}, "/a")
        raise OSError("gone")
    with pytest.raises(json.JSONDecodeError):
        json.loads(capsys.readouterr().out)


def test_notes_are_for_people_and_warnings_for_everybody(capsys):
    for output in (plain, as_json, quiet):
        output.note("a note")
        output.warning("the whitelist expires in 9 days")
    heard = capsys.readouterr()
    assert heard.out == ""
    warning = "cdn: warning: the whitelist expires in 9 days"
    assert heard.err.splitlines() == ["a note", warning, warning, warning]


def test_progress_is_silent_with_json_and_with_quiet(capsys):
    for output in (as_json, quiet):
        with output.progress("Publishing") as progress:
            assert isinstance(progress, NullProgress)
            progress.start(10, "files")
            progress.advance(10)
    assert capsys.readouterr() == ("", "")


def test_progress_is_one_plain_line_where_there_is_no_terminal(capsys):
    with plain.progress("Publishing") as progress:
        progress.start(10, "files")
        progress.advance(10)
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err.startswith("Publishing: 10 files in ")


def test_on_a_terminal_progress_is_a_bar_and_the_result_still_goes_to_standard_output():
    program = """
from cdn.cli.output import CommandOutput
out = CommandOutput()
with out.progress("Publishing [red]") as progress:
    progress.start(2048, "bytes")
    for _ in range(3):
        progress._shown -= 1
        progress.advance(512)
    progress.expect(512)
    progress.message("hashing")
    out.warning("careful")
    progress.advance(1024)
out.result({}, "done")
"""
    output, seen = on_a_terminal(program)
    assert output == "done\n"
    assert "Publishing [red]" in seen
    assert "2.5 KiB of 2.5 KiB" in seen
    assert "cdn: warning: careful\r\n" in seen
    assert "Publishing [red]: 2.5 KiB in " in seen
    assert "\x1b[?25h" in seen, "the cursor is given back"


def test_names_chosen_by_strangers_cannot_steer_a_terminal():
    _, seen = on_a_terminal("from cdn.cli.output import CommandOutput; CommandOutput().warning('\\x1b[2J\\x9b\\x07')")
    assert seen == "cdn: warning: \\x1b[2J\\x9b\\x07\r\n"


def test_tables_on_a_terminal_show_markup_as_text():
    program = """
import sys
sys.stdout = sys.stderr
from cdn.cli.output import CommandOutput
from cdn.reporting import Table
CommandOutput().result({}, Table(("tag", "revision"), [("[red]v1", 3), ("\\x1b[2J", 12)], title="Tags [b]"))
"""
    _, seen = on_a_terminal(program)
    assert "[red]v1" in seen
    assert "\\x1b[2J" in seen
    assert "\x1b[2J" not in seen
    assert "Tags [b]" in seen


@pytest.mark.parametrize(("colours", "escapes"), [(True, True), (False, False)])
def test_log_lines_on_a_terminal_have_colours_unless_they_are_not_wanted(colours, escapes):
    program = f"""
from cdn.cli.output import CommandOutput, Settings
from cdn.telemetry import event
CommandOutput(Settings(colours={colours})).serving()
event("edge.upstream.lost", url="http://a/")
"""
    _, seen = on_a_terminal(program)
    assert "edge.upstream.lost" in seen
    assert ("\x1b[" in seen) == escapes


@pytest.mark.parametrize(
    ("settings", "command", "server"),
    [
        (Settings(), "warning", "info"),
        (Settings(verbosity=1), "info", "debug"),
        (Settings(verbosity=2), "debug", "debug"),
        (Settings(verbosity=9), "debug", "debug"),
        (Settings(quiet=True), "error", "warning"),
    ],
)
def test_the_log_level_follows_verbosity_and_servers_say_more(settings, command, server):
    assert settings.log_level() == command
    assert settings.log_level(serving=True) == server
