"""The program that measures the edge beside other caches runs, and what it says is right."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import urllib.request

import pytest

from benchmarks import edge
from benchmarks.harness.caches import PEERS, Edge, chosen_peers
from benchmarks.harness.crowd import crowd_before
from benchmarks.harness.edge_phases import Measurement
from benchmarks.harness.edge_report import Measured, aims
from benchmarks.harness.objects import body_pieces, mixed_sizes, objects, zipf_sequence
from benchmarks.harness.origin import origin_of
from benchmarks.harness.profiler import self_times
from benchmarks.harness.servers import ServerFailedError, cpu_seconds

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measuring needs /proc")


def hit(server, rate, number=1, p99=1.0):
    figures = {"requests_per_second": rate, "p99_ms": p99, "errors": 0, "origin_requests": 0}
    return Measurement("hits", "8 KB, 32", server, number, figures)


# ------------------------------------------------------------------------------------------------------------- objects


def test_objects_are_named_by_the_digests_of_their_bodies():
    (one, other) = objects([100, 3 << 20])
    for each in (one, other):
        body = b"".join(body_pieces(each.number, each.size))
        assert (len(body), hashlib.sha1(body).hexdigest()) == (each.size, each.digest)


def test_the_most_popular_objects_get_most_requests_and_all_runs_the_same():
    order = zipf_sequence(1_000, 20_000, "seed")
    assert order == zipf_sequence(1_000, 20_000, "seed")
    assert sum(number < 100 for number in order) > 0.6 * len(order)
    assert 3_000 < sorted(mixed_sizes(1_000, "seed"))[500] < 5_000


# -------------------------------------------------------------------------------------------------------------- origin


def test_an_origin_gives_what_it_has_and_counts_it(tmp_path):
    held = objects([2_000_000, 500])
    with origin_of(held, tmp_path, None) as origin:
        before = origin.counted()
        for each in held:
            with urllib.request.urlopen(f"http://127.0.0.1:{origin.port}{each.path}", timeout=30) as answer:
                assert hashlib.sha1(answer.read()).hexdigest() == each.digest
        asked = origin.counted().since(before)
        assert (asked.requests, asked.body_bytes) == (2, 2_000_500)
        assert cpu_seconds(origin.pid) > 0
    assert cpu_seconds(origin.pid) == 0


def test_a_crowd_reads_the_first_bytes_and_some_read_all(tmp_path):
    (wanted,) = objects([1_500_000])
    looks = []
    with origin_of([wanted], tmp_path, None, rate=3_000_000) as origin:
        seen = crowd_before(
            origin.port,
            wanted.path,
            wanted.digest,
            clients=60,
            readers=3,
            first_bytes=10_000,
            seconds_max=60,
            core=None,
            while_waiting=lambda: looks.append(1),
        )
        assert origin.counted().requests == 60
    assert (seen.asked, seen.answered, seen.verified, seen.failed) == (60, 60, 3, 0)
    assert looks


# ------------------------------------------------------------------------------------------------------------- reports


def test_ratios_are_those_of_the_same_round():
    measured = Measured([hit("cdn edge", 10), hit("nginx", 5), hit("cdn edge", 30, 2), hit("nginx", 10, 2)])
    ratio = measured.ratio("hits", "8 KB, 32", "requests_per_second", "nginx")
    assert (ratio.least, ratio.most) == (2.0, 3.0)


def test_an_aim_is_reached_or_missed_by_the_median():
    found = [hit("cdn edge", 10), hit("nginx", 11), hit("Varnish", 5), hit("Squid", 3)]
    reached = {aim.text: aim.reached for aim in aims(Measured(found))}
    assert reached["hits of 8 KB, 32, requests/s >= 1 x nginx"] is False
    assert reached["hits of 8 KB, 32, requests/s >= 1.5 x Varnish"] is True
    assert reached["hits of 8 KB, 32, requests/s >= 3 x Squid"] is True
    assert reached["hits of 8 KB, 32, p99 no worse than that of nginx"] is True


def test_hits_that_reached_the_origin_are_doubted():
    good, bad = hit("nginx", 5), hit("Squid", 5)
    bad.figures["origin_requests"] = 3
    assert Measured([good, bad]).doubts() == ["hits, 8 KB, 32, round 1, Squid: 0 errors, 3 requests at the origin"]


def test_self_time_is_that_of_the_function_on_top():
    assert self_times("a;b;c 3\na;b 1\nx;c 4\n").splitlines() == [" 87.50%  c", " 12.50%  b"]


# -------------------------------------------------------------------------------------------------------- edge.py


def test_peers_that_are_not_installed_are_left_out_with_a_word(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    here, absent = chosen_peers(list(PEERS))
    assert here == []
    assert absent["Varnish"] == "varnishd is not installed (Debian: apt install varnish)"


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_the_edge_is_measured_in_every_way(tmp_path, capsys):
    arguments = ["--quick", "--peers", "none", "--workdir", str(tmp_path), "--results", str(tmp_path / "out")]
    assert edge.main(arguments) == 0
    (result,) = (tmp_path / "out").glob("edge-*.json")
    document = json.loads(result.read_text())
    assert {one["phase"] for one in document["measurements"]} >= {"hits", "misses", "zipf", "cold", "memory"}
    assert {one["server"].partition(",")[0] for one in document["measurements"]} == {"cdn edge"}
    assert all(one["figures"].get("errors", 0) == 0 for one in document["measurements"])
    crowd = next(one["figures"] for one in document["measurements"] if one["phase"] == "cold")
    assert (crowd["upstream_requests"], crowd["failed"]) == (1, 0)
    assert document["unfinished"] == ""
    assert result.with_suffix(".md").read_text() in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert str(tmp_path) not in result.read_text()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_server_that_does_not_start_is_a_problem_and_not_the_end(tmp_path, capsys, monkeypatch):
    class Broken(Edge):
        name = "broken"

        def configure(self):
            return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    monkeypatch.setitem(PEERS, "nginx", Broken)
    arguments = ["--quick", "--peers", "nginx", "--only", "hits", "--workdir", str(tmp_path), "--no-results"]
    assert edge.main(arguments) == 0
    said = capsys.readouterr().out
    assert "hits: broken: broken did not start: no such luck" in said
    assert "### Hits: 8 KB, 32" in said


def test_a_server_that_ends_at_once_tells_what_it_said(tmp_path):
    class Broken(Edge):
        def configure(self):
            return [sys.executable, "-c", "raise SystemExit('no such luck')"]

    origin_port, budget, core = 1, None, None
    with pytest.raises(ServerFailedError, match="cdn edge did not start: no such luck"):
        Broken(tmp_path / "broken", origin_port, budget, core).start()
