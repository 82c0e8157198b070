"""How the demonstration looks while it runs."""

import io
import sys

import pytest

from cdn.cli.demo_view import LineView, LiveView, view_for
from cdn.cli.output import CommandOutput, Settings
from cdn.demo.report import Check, NullView, Step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def told(view):
    """Has a view watch a step with a good and a bad check."""
    step = Step(2, "Kill [an] edge")
    view.begin(step, 9)
    view.detail("it was [killed]")
    view.progress(50, 200, "files")
    for check in (
        Check("it is dead", is_good=True, seen="yes"),
        Check("nobody cares", is_good=False, seen="[one] does"),
    ):
        step.checks.append(check)
        view.check(check)
    step.seconds = 1.5
    view.end(step)


def test_lines_say_what_happened_and_which_check_did_not_hold(capsys):
    told(LineView())
    assert capsys.readouterr().out.splitlines() == [
        "[2/9] Kill [an] edge",
        "      it was [killed]",
        "      FAILED: nobody cares: [one] does",
        "      FAILED in 1.50 s; 1 of 2 checks held",
    ]


def test_lines_tell_progress_now_and_then(capsys, monkeypatch):
    view = LineView()
    view.begin(Step(1, "Read"), 1)
    monkeypatch.setattr("cdn.cli.demo_view._LINE_SECONDS", 0.0)
    view.progress(1200, 21204, "files")
    assert "1,200 of 21,204 files" in capsys.readouterr().out


def test_a_terminal_shows_the_same_words_and_takes_no_name_for_markup(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    told(LiveView())
    shown = terminal.getvalue()
    for words in ("[2/9] Kill [an] edge", "it was [killed]", "FAILED: nobody cares: [one] does", "FAILED in 1.50 s"):
        assert words in shown


@pytest.mark.parametrize(
    ("settings", "is_terminal", "kind"),
    [
        (Settings(json=True), True, NullView),
        (Settings(quiet=True), False, NullView),
        (Settings(), False, LineView),
        (Settings(), True, LiveView),
    ],
)
def test_the_view_fits_where_the_results_go(monkeypatch, settings, is_terminal, kind):
    monkeypatch.setattr(sys, "stdout", Terminal() if is_terminal else io.StringIO())
    with view_for(CommandOutput(settings)) as view:
        assert type(view) is kind
