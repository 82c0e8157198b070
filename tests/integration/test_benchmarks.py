"""The measuring programs run, and measure what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks import eviction, hedging, publish, relaying, restart, scanning
from benchmarks.harness.processes import (
    CommandFailedError,
    descendants,
    measured,
    proportional_bytes,
    resident_bytes,
)
from benchmarks.harness.publishers import PEERS, Cdn, TarZstd
from benchmarks.harness.report import Spread, table
from benchmarks.harness.traces import OTHER_PROGRAMS, PYTHON_PROGRAMS, Shape, from_file, nodes, zipf
from benchmarks.harness.trees import LargeFiles, SmallFiles, size_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measuring needs /proc")

MEBIBYTE = 1 << 20
HOLD_MEMORY = "import os, sys; held = bytes(b'x' * (40 << 20)); os.write(1, b'!'); sys.stdin.read()"


@pytest.fixture
def run(tmp_path):
    def run(*arguments, **options):
        return measured([sys.executable, *arguments], environment=os.environ, output=tmp_path / "output", **options)

    return run


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.fixture
def parent_of_two():
    """A process with two children that hold 40 MiB each."""
    started = f"subprocess.Popen([sys.executable, '-c', {HOLD_MEMORY!r}], stdin=0, stdout=1)"
    program = f"import subprocess, sys; [child.wait() for child in [{started}, {started}]]"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(2) == b"!!"
        yield process.pid


def test_memory_of_children_counts_with_that_of_their_parent(parent_of_two):
    children = descendants(parent_of_two)
    assert len(children) == 2
    assert sum(map(proportional_bytes, [parent_of_two, *children])) > 80 * MEBIBYTE
    assert all(40 * MEBIBYTE < now <= most < 80 * MEBIBYTE for now, most in map(resident_bytes, children))


def test_a_process_that_has_ended_holds_nothing(run):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert descendants(process.pid) == []
    assert (resident_bytes(process.pid), proportional_bytes(process.pid)) == ((0, 0), 0)


def test_processor_time_of_children_counts(run):
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    usage = run("-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])")
    assert usage.cpu_seconds >= 0.2


def test_a_command_that_fails_is_named_with_what_it_said(run):
    with pytest.raises(CommandFailedError, match=r"ended with 3: no such luck"):
        run("-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)")


def test_what_a_command_writes_is_kept(run, tmp_path):
    run("-c", "print('hello')")
    assert (tmp_path / "output").read_text() == "hello\n"


# --------------------------------------------------------------------------------------------------------------- trees


@pytest.mark.parametrize("kind", [SmallFiles, LargeFiles])
def test_a_tree_is_the_same_for_the_same_seed_and_stays_so_through_changes(kind, tmp_path):
    trees = [kind(tmp_path / name, "seed", 0.0005) for name in ("one", "other")]
    for tree in trees:
        tree.make()
        for generation in (1, 2):
            tree.change(generation)
    assert contents(trees[0].root) == contents(trees[1].root)


def test_a_change_rewrites_adds_and_removes_one_small_file_in_a_hundred(tmp_path):
    tree = SmallFiles(tmp_path / "tree", "seed", 0.01)
    tree.make()
    before = contents(tree.root)
    tree.change(1)
    after = contents(tree.root)
    assert (len(before), len(after)) == (1000, 1000)
    assert len(after.keys() - before.keys()) == 1
    assert sum(before[path] != after[path] for path in before.keys() & after.keys()) == 8


def test_a_change_leaves_most_of_a_large_file_as_it_was(tmp_path):
    tree = LargeFiles(tmp_path / "tree", "seed", 0.0005)
    tree.make()
    before = {path: path.read_bytes() for path in sorted(tree.root.iterdir())}
    tree.change(1)
    for path, old in before.items():
        new = path.read_bytes()
        assert new != old
        parts = [old[at : at + 20_000] for at in range(0, len(old), 20_000)]
        assert sum(part in new for part in parts) > len(parts) * 0.9


# ------------------------------------------------------------------------------------------------------------- reports


def test_a_spread_has_a_middle_and_two_ends():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1.5]).text("s") == "1.50 s"


def test_a_table_lines_up():
    assert table(["", "time"], [["one", "1"]]).splitlines() == ["|     | time |", "| --- | ---: |", "| one |    1 |"]


# ------------------------------------------------------------------------------------------------------- publish.py


def test_publishing_is_measured_beside_the_peers_that_are_here(tmp_path, capsys):
    arguments = ["--scale", "0.0001", "--only", "small", "--workdir", str(tmp_path), "--results", str(tmp_path / "out")]
    here = [name for name in ("ostree", "tar") if PEERS[name].is_here()]
    assert publish.main([*arguments, "--rounds", "1", "--peers", ",".join(here) or "none"]) == 0
    (result,) = (tmp_path / "out").glob("publish-*.json")
    document = json.loads(result.read_text())
    measured_phases = {(one["publisher"], one["phase"]) for one in document["measurements"]}
    names = [Cdn.name, *(PEERS[name].name for name in here)]
    assert measured_phases == {(name, phase) for name in names for phase in publish.PHASES}
    assert all(one["usage"]["seconds"] > 0 and one["stored_bytes"] > 0 for one in document["measurements"])
    assert result.with_suffix(".md").read_text() in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert str(tmp_path) not in result.read_text()


def test_peers_that_are_not_installed_are_left_out_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    here, absent = publish.chosen_peers(list(PEERS))
    assert here == []
    assert absent["restic backup"] == "restic is not installed (Debian: apt install restic)"
    assert len(absent) == len(PEERS)


def test_too_little_room_is_said_before_anything_is_written(tmp_path, capsys):
    assert publish.main(["--scale", "999", "--workdir", str(tmp_path), "--no-results"]) == 2
    assert "more free space is needed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not TarZstd.is_here(), reason="tar or zstd is not installed")
def test_a_publisher_leaves_nothing_behind(tmp_path):
    publisher = TarZstd(tmp_path / "tar")
    tree = SmallFiles(tmp_path / "tree", "seed", 0.0001)
    tree.make()
    publisher.prepare()
    publisher.publish(tree.root, size_of(tree.root))
    assert list(publisher.store.iterdir())
    publisher.set_aside(1)
    publisher.prepare()
    assert not list(publisher.store.iterdir())
    publisher.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_traces_are_replayed_through_every_policy_and_none_beats_the_future(monkeypatch):
    monkeypatch.setattr(eviction, "PARTS", (0.1,))
    mixed = Shape(0.9, objects=500, scans=0.1, renewed=0.01)
    for trace in (zipf("zipf", mixed, 3000, seed=1), nodes("nodes", PYTHON_PROGRAMS, 3000, seed=1)):
        found = eviction._replayed("held out", trace)
        for tier in ("memory", "disk"):
            ratios = {name: each[0][0] for name, each in found[tier]["ratios"].items()}
            assert min(ratios.values()) >= 0
            assert max(ratios, key=ratios.get) == "offline, knows the future"
            assert ratios["ours"] > ratios["FIFO"]


def test_a_trace_is_the_same_for_the_same_seed_and_has_what_its_shape_says():
    shape = Shape(0.8, objects=1000, scans=0.25, scan_objects=5000, scan_times=2, drift=0.1, large_are_popular=True)
    trace = zipf("mixed", shape, 40_000, seed=5)
    again = zipf("mixed", shape, 40_000, seed=5)
    assert (trace.keys, trace.sizes) == (again.keys, again.sizes)
    scanned = [key for key in trace.keys if key >= 1000]
    assert scanned == [*range(1000, 6000), *range(1000, 6000)]


def test_halves_of_the_recorded_programs_are_other_requests():
    one, other = (nodes("", PYTHON_PROGRAMS, 2000, 1, slice(first, None, 2)) for first in (0, 1))
    third = nodes("", OTHER_PROGRAMS, 2000, 1)
    assert one.keys != other.keys
    assert max(len(one.keys), len(other.keys)) < 10_000
    assert len(third.sizes) > len(set(third.keys)) > 100


def test_a_trace_is_read_from_a_file(tmp_path):
    (tmp_path / "trace.csv").write_text("a,b,10\nc,20\na,b,10\n")
    trace = from_file(tmp_path / "trace.csv")
    assert (list(trace.keys), trace.sizes, trace.footprint) == ([0, 1, 0], [10, 20], 30)


def test_hedging_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hedging, "WARM_UP", 20)
    monkeypatch.setattr(hedging, "STUMBLE", {"both stumble": (True, True)})
    options = ["--requests", "40", "--rounds", "1", "--late", "0.05", "--rate", "200"]
    assert hedging.main([*options, "--workdir", str(tmp_path), "--no-results"]) == 0
    assert "p99.9, ms" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_relaying_is_measured(capsys):
    assert relaying.main(["--requests", "30", "--rounds", "1", "--no-results"]) == 0
    assert "object, not cached" in capsys.readouterr().out


def test_a_scan_is_measured(tmp_path, capsys):
    options = ["--files", "80", "--often", "10", "--pause", "0", "--workdir", str(tmp_path), "--no-results"]
    assert scanning.main(options) == 0
    assert "the scan itself" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_restart_is_measured(tmp_path, capsys):
    options = ["--objects", "300", "--rounds", "1", "--workdir", str(tmp_path), "--no-results"]
    assert restart.main(options) == 0
    assert "the same after a restart" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
