"""Completion works in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from cdn.cli.main import main


def completed(words: str, count: int) -> list[str]:
    """Asks as the bash script does."""
    asked = subprocess.run(
        [sys.executable, "-c", "import sys; from cdn.cli.main import main; sys.exit(main())"],
        env={**os.environ, "_CDN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.stderr == ""
    return [line.partition(",")[2] for line in asked.stdout.splitlines()]


def test_a_command_name_is_completed():
    assert completed("cdn comp", 1) == ["completion"]


def test_a_value_is_completed():
    assert completed("cdn completion ", 2) == ["bash", "zsh", "fish"]


def test_an_option_is_completed_below_a_command():
    assert completed("cdn completion --js", 2) == ["--json"]


def test_completing_names_imports_no_command():
    program = "import sys\nfrom cdn.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
    asked = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "_CDN_COMPLETE": "bash_complete", "COMP_WORDS": "cdn ", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = asked.stdout.splitlines()[-1].split()
    assert "cdn.cli.main" in loaded
    assert "cdn.cli.completion" not in loaded


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid_in_its_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_CDN_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; the script was not tried")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_the_bash_script_completes_in_bash(capsys, tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    main(["completion", "bash"])
    command = tmp_path / "cdn"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m cdn \"$@\"\n")
    command.chmod(0o755)
    script = (
        capsys.readouterr().out + '\nCOMP_WORDS=(cdn comp); COMP_CWORD=1; _cdn_completion cdn; echo "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    shown = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["completion"]
