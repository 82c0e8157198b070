"""How `make` sets up its environment, with an interpreter that only pretends to install."""

from __future__ import annotations

import sys

import pytest

from requirements import bootstrap

HASH = "    --hash=sha256:" + "0" * 64


@pytest.fixture
def environment(tmp_path):
    """An environment whose pip writes down what it is asked and says what it is told to say."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'cd "{folder}" || exit 9\n'
        'case "$*" in "-m pip "*) echo "$@" >>calls; cat says; exit $(cat status);; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    (folder / "says").write_text("Collecting click==8.5.1\nInstalling collected packages: click\n")
    (folder / "status").write_text("0")
    return folder


@pytest.fixture
def locks(tmp_path):
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "runtime.lock").write_text(f"# made\nclick==8.5.1 \\\n{HASH}\n    # via cdn\n")
    (folder / "dev.lock").write_text(f"click==8.5.1 \\\n{HASH}\nruff==1.0 ; python_version < '4' \\\n{HASH}\n")
    return folder


def calls(environment):
    path = environment / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_the_lock_is_installed_by_hash_and_then_the_project_without_fetching_anything(environment, locks, capsys):
    bootstrap.prepare(environment, locks / "runtime.lock")
    packages, project = calls(environment)
    assert "--require-hashes" in packages
    assert "--only-binary=:all:" in packages
    assert packages.endswith(str(locks / "runtime.lock"))
    assert "--no-deps --no-build-isolation" in project
    said = capsys.readouterr().out
    assert "installing 1 packages" in said
    assert "click" in said
    assert "done" in said


def test_nothing_is_done_or_said_where_everything_is_as_it_should_be(environment, locks, capsys):
    bootstrap.prepare(environment, locks / "runtime.lock")
    before = calls(environment)
    capsys.readouterr()
    bootstrap.prepare(environment, locks / "runtime.lock")
    assert calls(environment) == before
    assert capsys.readouterr().out == ""


def test_a_changed_lock_is_installed_again(environment, locks):
    bootstrap.prepare(environment, locks / "runtime.lock")
    before = len(calls(environment))
    (locks / "runtime.lock").write_text(f"click==8.6.0 \\\n{HASH}\n")
    bootstrap.prepare(environment, locks / "runtime.lock")
    assert len(calls(environment)) > before


def test_the_larger_lock_makes_the_smaller_one_unnecessary_but_not_the_other_way(environment, locks):
    bootstrap.prepare(environment, locks / "runtime.lock")
    bootstrap.prepare(environment, locks / "dev.lock")
    before = calls(environment)
    assert len(before) == 4
    bootstrap.prepare(environment, locks / "runtime.lock")
    assert calls(environment) == before


def test_a_failure_shows_the_end_of_what_pip_said_and_is_tried_again(environment, locks):
    (environment / "says").write_text("Collecting click==8.5.1\nERROR: no route to host\n")
    (environment / "status").write_text("1")
    for _ in range(2):
        with pytest.raises(bootstrap.SetupError, match=r"(?s)pip failed.*no route to host.*run the same command again"):
            bootstrap.prepare(environment, locks / "runtime.lock")
    assert len(calls(environment)) == 2


def test_a_python_without_ensurepip_is_told_what_to_install(tmp_path, locks, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(bootstrap.SetupError, match=r"no ensurepip; .*`apt install python3\.\d+-venv`"):
        bootstrap.prepare(tmp_path / "new", locks / "runtime.lock")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, locks):
    (tmp_path / "file").write_text("")
    with pytest.raises(bootstrap.SetupError, match="cannot be made"):
        bootstrap.prepare(tmp_path / "file" / "environment", locks / "runtime.lock")


def test_an_environment_that_was_moved_is_made_again(environment):
    assert not bootstrap.was_moved(environment)
    (environment / bootstrap.MADE_AT).write_text(str(environment))
    assert not bootstrap.was_moved(environment)
    (environment / bootstrap.MADE_AT).write_text("/elsewhere/.venv")
    assert bootstrap.was_moved(environment)


def test_an_environment_of_another_python_does_not_count_as_working(environment):
    python = environment / "bin" / "python"
    assert bootstrap.works(python)
    python.write_text("#!/bin/sh\nexit 1\n")
    assert not bootstrap.works(python)
    python.unlink()
    assert not bootstrap.works(python)
