"""What the demonstration publishes."""

import hashlib
import os

import pytest

from cdn.demo.report import DemoFailedError
from cdn.demo.tree import Expected, copy_libraries, edit, libraries, size_limit


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    for number in range(30):
        file = folder / f"package{number % 3}" / f"module{number:02}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {number}\n" * (number + 1))
    (folder / "package0" / "tool").write_text("#!/bin/sh\n")
    (folder / "package0" / "tool").chmod(0o755)
    (folder / "link").symlink_to("package0/tool")
    for left_out in ("__pycache__/module00.cpython-311.pyc", "site-packages/other.py"):
        path = folder / left_out
        path.parent.mkdir()
        path.write_text("left out")
    return folder


def copied(source, target, **how):
    return copy_libraries(target, places=[(str(source), "/lib")], **how)


def is_as_expected(expected, target):
    found = {}
    for folder, _, names in os.walk(target):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                with open(path, "rb") as stream:
                    found[path.removeprefix(str(target))] = hashlib.sha256(stream.read()).hexdigest()
    return found == {path: facts.sha256 for path, facts in expected.files.items()}


def test_everything_but_caches_and_what_belongs_elsewhere_is_copied(source, tmp_path):
    target = tmp_path / "tree"
    expected, found = copied(source, target)
    assert len(expected.files) == 31
    assert found == 32
    assert expected.links == {"/lib/link": "package0/tool"}
    assert os.readlink(target / "lib/link") == "package0/tool"
    assert os.access(target / "lib/package0/tool", os.X_OK)
    assert is_as_expected(expected, target)


def test_a_sample_is_taken_from_everywhere(source, tmp_path):
    expected, found = copied(source, tmp_path / "tree", files_max=9)
    assert found == 32
    assert 5 <= len(expected.files) <= 9
    assert {path.split("/")[2] for path in expected.files} == {"package0", "package1", "package2"}


def test_a_sample_holds_a_large_file_and_one_that_is_cut_into_chunks(source, tmp_path):
    (source / "large.so").write_bytes(os.urandom(300 << 10))
    (source / "chunked.so").write_bytes(os.urandom(5 << 20))
    expected, _ = copied(source, tmp_path / "tree", files_max=9)
    assert {"/lib/large.so", "/lib/chunked.so"} <= set(expected.files)


def test_no_more_bytes_are_copied_than_there_is_room_for(source, tmp_path):
    expected, _ = copied(source, tmp_path / "tree", bytes_max=1000)
    assert 0 < expected.size_bytes <= 1000


def test_copying_stops_when_it_is_told_to(source, tmp_path):
    told = iter([False, False, False])
    expected, _ = copied(source, tmp_path / "tree", is_stopped=lambda: next(told, True))
    assert len(expected.files) + len(expected.links) == 3


def test_a_source_without_a_file_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DemoFailedError, match="no file"):
        copied(tmp_path / "empty", tmp_path / "tree")


def test_the_second_revision_adds_changes_and_removes_and_is_expected_so(source, tmp_path):
    target = tmp_path / "tree"
    expected, _ = copied(source, target)
    before = dict(expected.files)
    made = edit(expected, target)
    assert set(made.added) == set(expected.files) - set(before)
    assert set(made.removed) == set(before) - set(expected.files)
    assert set(made.changed) == {
        path for path in before if path in expected.files and before[path] != expected.files[path]
    }
    assert made.added
    assert made.changed
    assert made.removed
    assert is_as_expected(expected, target)


def test_what_is_expected_is_the_same_after_it_was_saved(source, tmp_path):
    expected, _ = copied(source, tmp_path / "tree")
    expected.save(tmp_path / "expected.json")
    assert Expected.load(tmp_path / "expected.json") == expected


def test_this_pythons_libraries_are_found():
    assert all(os.path.isdir(folder) for folder, _ in libraries())
    assert any(os.path.exists(f"{folder}/os.py") for folder, _ in libraries())


def test_there_is_a_limit_to_what_is_published(tmp_path):
    assert 0 < size_limit(tmp_path) <= 192 << 20
