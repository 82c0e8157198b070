"""The command `cdn` as a user meets it: help, suggestions, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cdn import __version__, errors
from cdn.cli import main as main_module
from cdn.cli.commands import ENTRIES, SECTIONS
from cdn.cli.exit_codes import EXIT_CODES
from cdn.cli.main import cdn, main
from cdn.telemetry import fault_point, install_fault_hook

HEAVY = ["aiohttp", "asyncio", "cryptography", "dnspython", "msgspec", "rich", "sqlite3", "ssl", "structlog", "uvloop"]


def run(*arguments, environment=None, program=None, **options):
    command = [sys.executable, "-c", program] if program else [sys.executable, "-m", "cdn"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, check=False, env={**os.environ, **(environment or {})}, **options
    )


def with_command(body):
    """A program that is `cdn` with one more command, `probe`, of the given body."""
    return (
        "import os, signal, sys, click\n"
        "from cdn import errors\nfrom cdn.cli.main import cdn, main\n"
        "from cdn.cli.options import add_reporting_options\nfrom cdn.telemetry import fault_point\n"
        "@click.command()\n@click.pass_obj\ndef probe(out):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
        + "cdn.add_command(add_reporting_options(probe))\nsys.exit(main())\n"
    )


PRESENT = [name for name, entry in ENTRIES.items() if main_module._is_present(entry)]


@pytest.fixture(params=PRESENT)
def command(request):
    return cdn.get_command(click.Context(cdn), request.param)


# ---------------------------------------------------------------------------------------------------------------- help


def test_help_lists_every_command_under_its_heading_as_a_real_process():
    shown = run("--help")
    assert shown.returncode == 0
    assert shown.stderr == b""
    text = shown.stdout.decode()
    for heading, entries in SECTIONS.items():
        present = [entry for entry in entries if main_module._is_present(entry)]
        assert f"\n{heading}:\n" in text or not present
        for entry in present:
            assert re.search(rf"^  {entry.name} +\S", text, re.MULTILINE), entry.name


def test_help_imports_no_command_and_nothing_heavy():
    program = (
        "import sys; from cdn.cli.main import main; code = main(['--help'])\n"
        "print('\\nmodules:', *sorted(sys.modules)); sys.exit(code)"
    )
    loaded = run(program=program).stdout.decode().rpartition("modules: ")[2].split()
    assert "click" in loaded
    assert [name for name in HEAVY if name in loaded] == []
    assert [entry.module for entry in ENTRIES.values() if entry.module in loaded] == []


@pytest.mark.parametrize("name", PRESENT)
def test_help_of_a_command_imports_nothing_heavy(name):
    program = (
        "import sys; from cdn.cli.main import main; code = main(sys.argv[1:])\n"
        "print('\\nmodules:', *sorted(sys.modules)); sys.exit(code)"
    )
    shown = run(name, "--help", program=program)
    assert shown.returncode == 0, shown.stderr
    loaded = shown.stdout.decode().rpartition("modules: ")[2].split()
    assert [name for name in HEAVY if name in loaded] == []


def commands_below(command, path):
    yield path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from commands_below(below, f"{path} {name}")


def test_every_command_explains_itself_and_every_option_too(command):
    for path, below in commands_below(command, f"cdn {command.name}"):
        assert (below.help or "").strip(), f"{path} has no help"
        assert below.help.strip().split("\n\n")[0].rstrip().endswith("."), f"{path}: a sentence ends with a full stop"
        silent = [each.name for each in below.params if isinstance(each, click.Option) and not each.help]
        assert silent == [], f"{path} has options without help"


def test_every_command_has_the_reporting_options_once(command):
    for path, below in commands_below(command, f"cdn {command.name}"):
        if not isinstance(below, click.Group):
            written = [option for each in below.params for option in each.opts]
            assert {"--json", "--quiet", "--verbose", "--log-format"} <= set(written), path
            assert len(written) == len(set(written)), path


def test_a_group_below_lists_whole_sentences():
    @click.group()
    def outer():
        """Hold others."""

    @outer.command()
    def inner():
        """Say something that is longer than what click shows of a command in the list of its group, and not less.

        More.
        """

    main_module.add_reporting_options(outer)
    shown = CliRunner().invoke(outer, ["--help"]).output
    assert "its group, and not less." in " ".join(shown.split())


def test_version():
    assert run("--version").stdout.decode().split() == ["stratocast", __version__]


# ----------------------------------------------------------------------------------------------- mistakes in the words


def test_an_unknown_command_suggests_the_nearest():
    refused = run("compltion")
    assert refused.returncode == 2
    assert refused.stdout == b""
    assert refused.stderr.decode().splitlines() == [
        "cdn: No such command 'compltion'. Did you mean 'completion'?",
        "Try `cdn --help`.",
    ]


def test_a_wrong_option_names_the_command_to_ask_for_help():
    refused = run("completion", "--jsn", "bash")
    assert refused.returncode == 2
    assert "Did you mean '--json'?" in refused.stderr.decode()
    assert "Try `cdn completion --help`." in refused.stderr.decode()


def test_no_command_shows_the_help_and_is_an_error():
    shown = run()
    assert shown.returncode == 2
    assert b"Usage: cdn" in shown.stderr


def test_a_command_whose_module_is_absent_is_hidden(monkeypatch):
    monkeypatch.setattr(main_module, "find_spec", lambda name: None)
    assert cdn.list_commands(click.Context(cdn)) == []
    assert "Publishing:" not in CliRunner().invoke(cdn, ["--help"]).output


# ------------------------------------------------------------------------------------------------------ how things end


def all_errors(kind=errors.CdnError):
    return [kind, *(below for child in kind.__subclasses__() for below in all_errors(child))]


def test_every_error_has_a_documented_exit_code():
    page = Path(__file__).parents[4] / "docs" / "operations" / "exit-codes.md"
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", page.read_text(), re.MULTILINE)}
    assert documented == set(EXIT_CODES)
    assert {error.exit_code for error in all_errors()} <= set(EXIT_CODES)


def test_help_lists_every_exit_code():
    text = run("--help").stdout.decode().rpartition("Exit codes:")[2]
    assert [int(code) for code in re.findall(r"^ +(\d+)  ", text, re.MULTILINE)] == list(EXIT_CODES)


@pytest.mark.parametrize(
    ("raised", "status", "sentence"),
    [
        ("errors.LeaseHeldError('/sw is leased by another publisher')", 8, "/sw is leased by another publisher"),
        ("errors.CheckFailedError('2 objects are damaged')", 10, "2 objects are damaged"),
        ("errors.ObjectMissingError('data/ab', '/srv')", 5, "data/ab is not in /srv"),
        ("PermissionError(13, 'Permission denied', '/srv/keys')", 1, "/srv/keys: Permission denied"),
        ("OSError(28, 'No space left on device')", 1, "No space left on device"),
        ("ConnectionResetError(104, 'Connection reset by peer')", 1, "Connection reset by peer"),
        ("BrokenPipeError(32, 'Broken pipe')", 1, "a connection was closed by the other side"),
        ("click.ClickException('no')", 1, "no"),
        ("KeyboardInterrupt()", 130, "interrupted"),
        ("click.Abort()", 130, "interrupted"),
    ],
)
def test_what_ends_a_command_becomes_one_sentence_and_an_exit_code(raised, status, sentence):
    ended = run("probe", program=with_command(f"raise {raised}"))
    assert ended.returncode == status
    assert ended.stderr.decode().strip() == f"cdn: {sentence}"
    assert ended.stdout == b""


def test_a_mistake_of_ours_is_one_sentence_and_the_traceback_is_kept_for_the_report(tmp_path):
    ended = run("probe", program=with_command("raise KeyError('a\\nb')"), environment={"TMPDIR": str(tmp_path)})
    assert ended.returncode == 70
    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "Traceback (most recent call last)" in kept.read_text()
    said = ended.stderr.decode()
    assert said.count("\n") == 1
    assert said.startswith("cdn: internal error: KeyError:")
    assert str(kept) in said


def test_a_mistake_of_ours_is_told_even_where_nothing_can_be_written():
    ended = run(
        "probe",
        program=with_command("import tempfile; tempfile.tempdir = '/nonexistent'\nraise KeyError('a')"),
    )
    assert ended.returncode == 70
    assert "CDN_DEBUG=1 shows where" in ended.stderr.decode()


def test_debugging_shows_the_traceback():
    ended = run("probe", program=with_command("raise KeyError('a')"), environment={"CDN_DEBUG": "1"})
    assert ended.returncode == 70
    assert "Traceback (most recent call last)" in ended.stderr.decode()


def test_an_interrupt_from_the_keyboard_ends_with_130_and_no_traceback():
    body = "os.kill(os.getpid(), signal.SIGINT)\nsignal.pause()"
    ended = run("probe", program=with_command(body))
    assert ended.returncode == 130
    assert ended.stderr.decode().strip() == "cdn: interrupted"


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_who_leaves_ends_the_command_quietly(lines):
    program = with_command(f"for _ in range({lines}):\n    out.result({{}}, 'x' * 80)")
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", program, "probe"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_a_failure(unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "cdn", "completion", "bash"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert ended.returncode == 5
    assert ended.stderr == b"cdn: standard output cannot be written: No space left on device\n"


def test_names_that_are_not_valid_text_come_out_as_the_bytes_they_are():
    shown = run("probe", program=with_command(r"out.result({}, os.fsdecode(b'/a\xff'))"))
    assert shown.stdout == b"/a\xff\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_that_the_terminal_has_no_letters_for_are_escaped(encoding):
    shown = run("probe", program=with_command("out.result({}, '/\\u0416')"), environment={"PYTHONIOENCODING": encoding})
    assert shown.stdout == b"/\\u0416\n"


def test_what_a_command_returns_is_no_exit_status():
    assert run("probe", program=with_command("return 3")).returncode == 0


# ------------------------------------------------------------------------------------- the options and the environment


@pytest.mark.parametrize("words", [("--json", "completion", "bash"), ("completion", "--json", "bash")])
def test_reporting_options_may_stand_before_and_after_the_command(words):
    assert json.loads(run(*words).stdout)["shell"] == "bash"


def test_log_lines_go_to_standard_error_in_the_format_asked_for():
    program = with_command("from cdn.telemetry import event\nevent('probe.thing.happen')")
    assert run("probe", program=program).stderr == b""
    line = json.loads(run("probe", "-v", "--log-format=json", program=program).stderr)
    assert (line["event"], line["level"]) == ("probe.thing.happen", "info")
    line = json.loads(run("-v", "probe", program=program, environment={"CDN_LOG_FORMAT": "json"}).stderr)
    assert line["event"] == "probe.thing.happen"


def test_a_server_logs_at_info_level_without_being_asked():
    program = with_command("from cdn.telemetry import event\nout.serving()\nevent('probe.thing.happen')")
    assert b"probe.thing.happen" in run("probe", program=program).stderr
    assert run("probe", "-q", program=program).stderr == b""


def test_a_wrong_log_format_in_the_environment_is_refused():
    refused = run("completion", "bash", environment={"CDN_LOG_FORMAT": "xml"})
    assert refused.returncode == 2
    assert refused.stderr == b"cdn: CDN_LOG_FORMAT is 'xml'; it must be one of console, json\n"


def test_a_fault_named_in_the_environment_kills_the_process_there():
    program = with_command("print('before', flush=True)\nfault_point('probe.point')\nprint('after', flush=True)")
    died = run("probe", program=program, environment={"CDN_FAULT": "probe.point"})
    assert (died.returncode, died.stdout) == (-signal.SIGKILL, b"before\n")
    lived = run("probe", program=program)
    assert (lived.returncode, lived.stdout) == (0, b"before\nafter\n")


def test_a_misspelt_fault_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("CDN_FAULT", "point@never")
    assert main(["completion", "bash"]) == 2
    assert "names no fault point" in capsys.readouterr().err
    assert install_fault_hook(None) is None
    fault_point("point")
