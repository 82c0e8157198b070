"""Names for revisions, and what a user means by one."""

from __future__ import annotations

import pytest

from cdn.errors import ObjectMissingError, RepositoryError, UsageError
from cdn.objects import Kind, ObjectName
from stratum0.documents import read_reflog
from stratum0.revisions import resolve, tags_of
from stratum0.tags import add_tag, remove_tags
from tests.fakes.publishers import new_publisher, published


@pytest.fixture
def repository(tmp_path):
    """Five revisions, each with a file more."""
    repository = new_publisher(tmp_path, auto_tag=False)
    for number in range(2, 6):
        with repository.transaction() as transaction:
            transaction.put_file(f"/{number}", b"%d" % number)
    return repository


def tag_names(repository):
    return {tag.name for tag in tags_of(repository.head()).tags}


def test_a_tag_names_the_current_revision_unless_told_otherwise(repository):
    tag = add_tag(repository, "v5", message="five")
    assert (tag.revision, tag.root_catalog, tag.description) == (5, repository.head().root, "five")
    assert add_tag(repository, "v3", revision="3").revision == 3
    assert add_tag(repository, "v4", revision="trunk-previous").revision == 4
    assert published(repository).history.tag("v3").root_catalog == resolve(repository, "3").root


def test_a_tag_changes_neither_tree_nor_revision(repository):
    before = repository.head()
    add_tag(repository, "v5")
    after = repository.head()
    assert (after.root, after.revision) == (before.root, before.revision)
    assert after.manifest.timestamp >= before.manifest.timestamp
    assert after.history.previous == before.manifest.history
    reflog = read_reflog(repository)
    assert ObjectName(after.manifest.history, Kind.HISTORY) in reflog


def test_a_name_that_is_taken_is_refused_unless_it_is_to_move(repository):
    add_tag(repository, "stable", revision="3")
    with pytest.raises(RepositoryError, match="for revision 3"):
        add_tag(repository, "stable")
    assert add_tag(repository, "stable", move=True).revision == 5
    assert resolve(repository, "stable").number == 5


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 256, "trunk", "trunk-previous", "42"])
def test_a_name_that_no_tag_can_have_is_refused(repository, name):
    before = repository.head()
    with pytest.raises(UsageError):
        add_tag(repository, name)
    assert repository.head() is before


def test_tags_are_removed_all_or_none(repository):
    add_tag(repository, "a")
    add_tag(repository, "b")
    with pytest.raises(RepositoryError, match="did you mean"):
        remove_tags(repository, ["a", "bb"])
    assert {"a", "b"} <= tag_names(repository)
    assert [tag.name for tag in remove_tags(repository, ["a", "b", "a"])] == ["a", "b"]
    assert tag_names(repository) == {"trunk", "trunk-previous"}
    with pytest.raises(UsageError, match="moves by itself"):
        remove_tags(repository, ["trunk"])


def test_a_revision_is_found_by_number_name_and_digest(repository):
    head = repository.head()
    assert (
        resolve(repository, "trunk").root
        == resolve(repository, "HEAD").root
        == resolve(repository, "5").root
        == head.root
    )
    assert resolve(repository, head.root.text).number == 5
    second = resolve(repository, "2")
    assert second.number == 2
    assert second.size == repository.catalogs.file_of(second.root).stat().st_size
    assert resolve(repository, "1").number == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("6", "is at revision 5"),
        ("0", "no revision 0"),
        ("nonsense", "no revision or tag"),
        ("trunk-previuos", "did you mean"),
    ],
)
def test_a_revision_that_is_none_is_refused(repository, text, said):
    with pytest.raises(RepositoryError, match=said):
        resolve(repository, text)


def test_an_unknown_digest_is_no_revision(repository):
    with pytest.raises(ObjectMissingError):
        resolve(repository, "0" * 39 + "1")


def test_a_revision_that_was_collected_is_said_to_be_gone(repository):
    repository.store.delete(ObjectName(resolve(repository, "3").root, Kind.CATALOG).path)
    repository.catalogs.clear()
    for number in ("3", "2"):
        with pytest.raises(RepositoryError, match="not kept any more"):
            resolve(repository, number)
    assert resolve(repository, "4").number == 4


def test_a_revision_beyond_a_gap_is_found_from_a_tag(repository):
    add_tag(repository, "old", revision="2")
    repository.store.delete(ObjectName(resolve(repository, "3").root, Kind.CATALOG).path)
    repository.catalogs.clear()
    assert resolve(repository, "1").number == 1
