"""The examples in the help are commands that exist, with options that exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from cdn.cli.examples import EXAMPLES, lines_of
from cdn.cli.main import cdn


def every_command(command=cdn, words=""):
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        yield from every_command(command.get_command(context, name), f"{words} {name}".strip())


def command_lines(words):
    """The lines as a shell would join them, each from `cdn` to where a pipe or a redirection begins."""
    joined = "\n".join(lines_of(EXAMPLES[words])).replace("\\\n", "")
    for line in joined.splitlines():
        if not line.startswith("#"):
            yield shlex.split(re.sub(r" [|>].*", "", line[line.index("cdn ") :]).removesuffix(")"))


COMMANDS = dict(every_command())


def parse(arguments):
    """Parses a command line without running it."""
    words = next(" ".join(arguments[:count]) for count in (3, 2, 1) if " ".join(arguments[:count]) in COMMANDS)
    COMMANDS[words].make_context(words, list(arguments[len(words.split()) :]))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_examples_at_the_end_of_its_help(words):
    command = COMMANDS[words]
    shown = command.get_help(click.Context(command, info_name="x", terminal_width=80))
    assert [line.strip() for line in shown.partition("\n  Examples:\n")[2].splitlines()] == [
        line.strip() for line in lines_of(EXAMPLES[words])
    ]


@pytest.mark.parametrize("words", EXAMPLES)
def test_every_example_is_a_command_line_that_is_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sw.example.org.pub").touch()
    lines = list(command_lines(words))
    assert any(line[1 : 1 + len(words.split())] == words.split() for line in lines)
    for line in lines:
        assert line[0] == "cdn"
        parse(line[1:])


@pytest.mark.parametrize("words", EXAMPLES)
def test_no_example_is_wider_than_a_narrow_terminal_shows(words):
    assert max(map(len, lines_of(EXAMPLES[words]))) <= 76


def test_an_example_that_is_not_understood_is_found():
    with pytest.raises(click.UsageError):
        parse(["publish", "sw.example.org", ".", "--no-such-option"])
