from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdn.history import History, Tag
from cdn.manifest import Manifest
from cdn.objects import Kind, ObjectName
from replica.plan import SyncPlan, date_line, object_bytes_max, reflog_names, repositories_json, status_json
from tests.fakes.signer import Signer

DIGEST = Signer().digest


def manifest(**changes) -> Manifest:
    return Manifest(DIGEST(b"head"), 5, **changes)


def test_the_first_run_copies_the_newest_revision_and_the_tagged_ones_in_order():
    tags = (
        Tag("b", DIGEST(b"2"), 2, 0),
        Tag("a", DIGEST(b"1"), 1, 0),
        Tag("same", DIGEST(b"1"), 1, 0),
        Tag("trunk", DIGEST(b"head"), 5, 0),
    )
    plan = SyncPlan.of(manifest(), History("x", tags), is_initial=True)
    assert plan == SyncPlan(
        DIGEST(b"head"), (DIGEST(b"1"), DIGEST(b"2")), follows_history=False, may_lack_history=False
    )


def test_later_runs_follow_what_was_published_between():
    plan = SyncPlan.of(manifest(garbage_collectable=True), None, is_initial=False)
    assert plan == SyncPlan(DIGEST(b"head"), (), follows_history=True, may_lack_history=True)


def test_tags_can_be_left_out():
    history = History("x", (Tag("a", DIGEST(b"1"), 1, 0),))
    assert SyncPlan.of(manifest(), history, is_initial=True, with_tags=False).tagged == ()


def test_the_reflog_lists_each_root_and_document_once():
    names = reflog_names(manifest(certificate=DIGEST(b"x")), [DIGEST(b"head"), DIGEST(b"1"), DIGEST(b"1")])
    assert names == [
        ObjectName(DIGEST(b"head"), Kind.CATALOG),
        ObjectName(DIGEST(b"1"), Kind.CATALOG),
        ObjectName(DIGEST(b"x"), Kind.CERTIFICATE),
    ]


@pytest.mark.parametrize(
    ("now", "line"),
    [(0, b"Thu Jan  1 00:00:00 UTC 1970\n"), (1_795_485_783.9, b"Tue Nov 24 02:03:03 UTC 2026\n")],
)
def test_dates_are_as_the_date_command_writes_them(now, line):
    assert date_line(now) == line


def test_a_status_keeps_what_others_wrote():
    before = json.dumps({"last_gc": "some day", "check_status": "failed", "odd": 5}).encode()
    assert json.loads(status_json(before, check_status="succeeded")) == {
        "last_gc": "some day",
        "check_status": "succeeded",
    }


@given(st.binary(max_size=50) | st.just(b"[1]") | st.just(b'{"replicas": 5}'))
def test_damaged_documents_are_written_anew(before):
    assert json.loads(status_json(before, last_snapshot="now"))["last_snapshot"] == "now"
    assert json.loads(repositories_json(before, "a.b", present=True))["replicas"][-1]["name"] == "a.b"


def test_the_list_of_replicas_has_each_once_and_loses_the_removed():
    text = repositories_json(b"", "a.b", present=True)
    text = repositories_json(text, "c.d", present=True)
    text = repositories_json(text, "a.b", present=True)
    assert [each["name"] for each in json.loads(text)["replicas"]] == ["c.d", "a.b"]
    assert [each["name"] for each in json.loads(repositories_json(text, "c.d", present=False))["replicas"]] == ["a.b"]
    assert json.loads(text)["schema"] == 1


def test_what_a_source_may_send_is_bounded_by_what_the_catalog_says():
    assert object_bytes_max(100, 1 << 40) == 64 << 20
    assert object_bytes_max(1 << 30, 1 << 40) == (1 << 30) + (1 << 27) + 4096
    assert object_bytes_max(1 << 30, 1 << 20) == 1 << 20
