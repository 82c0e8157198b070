"""Makes a virtual environment with exactly what a lock file names, and says what it does.

Called by the Makefile as ``python3 requirements/bootstrap.py ENVIRONMENT LOCK``. Needs nothing but Python and its
venv module, and does nothing where the environment is as it should be. Every archive is checked against the hash in
the lock file; the project itself is built with the pinned setuptools, so that nothing unpinned is fetched.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRESS_INTERVAL_SECONDS = 5.0
MADE_AT = ".made-at"


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


def main() -> int:
    """Runs one command line."""
    environment, lock = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        prepare(environment, lock)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def prepare(environment: Path, lock: Path) -> None:
    """Brings the environment to the state the lock file describes."""
    python = environment / "bin" / "python"
    if was_moved(environment) or not works(python):
        create(environment)
    if stamp(environment, lock).exists() and stamp(environment, lock).read_text() == fingerprint(lock, python):
        return
    began = time.monotonic()
    wanted = packages(lock)
    names = ", ".join(package.split("==")[0] for package in wanted)
    print(f"setup: installing {len(wanted)} packages from {lock} into {environment}: {names}", flush=True)
    try:
        log = environment / "setup.log"
        log.write_text("")
        pip(python, log, len(wanted), "--require-hashes", "--only-binary=:all:", "--requirement", str(lock))
        pip(python, log, 0, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        for each in lock.parent.glob("*.lock"):
            if set(packages(each)) <= set(wanted):
                stamp(environment, each).write_text(fingerprint(each, python))
    except OSError as error:
        raise SetupError(
            f"{environment} cannot be written: {error}; run this as its owner, or name another with VENV="
        ) from error
    print(f"setup: done in {time.monotonic() - began:.0f} s", flush=True)


def packages(lock: Path) -> list[str]:
    """The ``name==version`` of every package a lock file names."""
    return [line.split()[0] for line in lock.read_text().splitlines() if "==" in line and line[0].isalnum()]


def stamp(environment: Path, lock: Path) -> Path:
    """The file that says which state of a lock file has been installed."""
    return environment / f".{lock.stem}.stamp"


def works(python: Path) -> bool:
    """Whether the environment is whole and of this Python's version: the one it was made with may have been removed."""
    probe = f"import sys, pip; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def was_moved(environment: Path) -> bool:
    """Whether the folder is no longer where it was made: its scripts then start an interpreter that is gone."""
    made_at = environment / MADE_AT
    return made_at.exists() and made_at.read_text() != str(environment.absolute())


def create(environment: Path) -> None:
    """Makes the virtual environment, from nothing."""
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"setup: making the virtual environment {environment} with Python {version} ({sys.executable})", flush=True)
    try:
        import ensurepip  # noqa: F401 -- Debian's python3 has the venv module but cannot fill an environment without this
        import venv
    except ImportError as error:
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise SetupError(
            f"this Python has no {error.name}; on Debian and Ubuntu install it with `apt install {package}`,"
            " or name another Python with `make PYTHON=/path/to/python3`"
        ) from error
    try:
        if environment.exists():
            shutil.rmtree(environment)
        venv.create(environment, with_pip=True)
        (environment / MADE_AT).write_text(str(environment.absolute()))
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"{environment} cannot be made: {error}") from error


def fingerprint(lock: Path, python: Path) -> str:
    """What the environment depends on: when it changes, packages are installed again."""
    digest = hashlib.sha256()
    for part in (lock.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), str(ROOT).encode(), str(python).encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def pip(python: Path, log: Path, count: int, *arguments: str) -> None:
    """Runs pip quietly: one progress line at a time, everything else into the log."""
    command = [
        python,
        "-m",
        "pip",
        "--no-input",
        "--disable-pip-version-check",
        "install",
        "--progress-bar=off",
        *arguments,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    progress = Progress(count)
    said = process.stdout
    assert said is not None
    with log.open("a") as file, process:
        for line in said:
            file.write(line)
            progress.read(line)
    progress.finish()
    if process.returncode != 0:
        raise SetupError(
            f"pip failed; the end of {log} says:\n{tail(log)}\nOnce that is put right, run the same command again."
        )


class Progress:
    """One line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._told = time.monotonic()
        self._is_terminal = sys.stdout.isatty()

    def read(self, line: str) -> None:
        words = line.split()
        if not self._count or len(words) < 2 or words[0] not in {"Collecting", "Requirement", "Installing"}:
            return
        if words[0] == "Installing":
            self._show("unpacking")
            return
        self._done += 1
        name = (words[1] if words[0] == "Collecting" else words[2]).partition("=")[0]
        self._show(f"{self._done} of {self._count}: {name}")

    def finish(self) -> None:
        if self._is_terminal and self._done:
            print("\r\x1b[K", end="", flush=True)

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if self._is_terminal:
            print(f"\r\x1b[Ksetup: {text}"[:100], end="", flush=True)
        elif now - self._told >= PROGRESS_INTERVAL_SECONDS:
            self._told = now
            print(f"setup: {text}", flush=True)


def tail(log: Path) -> str:
    """The last lines of the log, indented."""
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-12:])


if __name__ == "__main__":
    sys.exit(main())
