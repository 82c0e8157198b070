"""The units for systemd: what they start exists, they are well formed, and what they forbid is not needed."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.edge import Client
from tests.fakes.edge_process import Process, write_config

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "packaging" / "systemd").iterdir())
EDGE = ROOT / "packaging" / "systemd" / "stratocast-edge.service"
_PR_SET_MDWE = 65
_PR_MDWE_REFUSE_EXEC_GAIN = 1


class _Several(dict):
    """Keeps every value of a key that stands more than once."""

    def __setitem__(self, key, value):
        if isinstance(value, list) and key in self:
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def read_unit(path):
    parser = configparser.RawConfigParser(strict=False, interpolation=None, dict_type=_Several, delimiters=("=",))
    parser.optionxform = str
    parser.read(path)
    return {section: {key: value.split("\n") for key, value in parser.items(section)} for section in parser.sections()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_finds_nothing_wrong_with_them(tmp_path):
    for unit in UNITS:
        shutil.copy(unit, tmp_path)
    ended = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_unit_of_the_edge_leaves_it_few_rights():
    service = read_unit(EDGE)["Service"]
    assert service["Type"] == ["notify"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["ProtectSystem"] == ["strict"]
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    for key in ("NoNewPrivileges", "DynamicUser", "PrivateDevices", "MemoryDenyWriteExecute", "RestrictNamespaces"):
        assert service[key] == ["yes"], key
    assert int(service["LimitNOFILE"][0]) > 2 * 10_000


def test_the_unit_of_the_edge_runs_commands_that_exist(tmp_path):
    service = read_unit(EDGE)["Service"]
    for key in ("ExecStartPre", "ExecStart"):
        (command,) = service[key]
        *words, path = command.removeprefix("/usr/bin/env cdn ").split()
        assert path == "/etc/stratocast/edge.toml"
        subprocess.run(
            [sys.executable, "-m", "cdn", *words[:2], "--help"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT
        )
    words = service["ExecStartPre"][0].split()[3:-1]
    example = str(ROOT / "examples" / "edge.toml")
    subprocess.run([sys.executable, "-m", "cdn", "edge", *words, example], check=True, cwd=ROOT)


def test_the_socket_unit_belongs_to_the_edge_and_has_the_name_that_is_explained():
    path = ROOT / "packaging" / "systemd" / "stratocast-edge.socket"
    unit = read_unit(path)
    assert unit["Socket"]["Service"] == [EDGE.name]
    (name,) = unit["Socket"]["FileDescriptorName"]
    assert f'addresses = ["systemd:{name}"]' in path.read_text()


_UNDER_MDWE = f"""
import ctypes, os, sys
if ctypes.CDLL(None).prctl({_PR_SET_MDWE}, {_PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):
    sys.exit("the kernel cannot forbid it")
if sys.argv[1:]:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


async def test_the_edge_needs_no_memory_that_is_both_written_and_run(tmp_path):
    wrapped = [sys.executable, "-c", _UNDER_MDWE]
    if subprocess.run(wrapped, check=False, stderr=subprocess.DEVNULL).returncode:  # noqa: ASYNC221
        pytest.skip("the kernel cannot forbid it")
    path = str(write_config(tmp_path, "http://127.0.0.1:1"))
    command = [*wrapped, "-m", "cdn", "edge", "run", "--config", path, "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)  # noqa: ASYNC220
    try:
        async with Client(Process(process).address) as client:
            assert (await client.get("/healthz")).status == 200
            assert (await client.get("/cvmfs/sw.example.org/.cvmfspublished")).status == 502
    finally:
        process.kill()
        process.wait()
