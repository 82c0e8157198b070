"""Going back to an earlier revision."""

from __future__ import annotations

import pytest

from cdn.errors import RepositoryError
from stratum0.rollback import rollback
from stratum0.tags import add_tag
from tests.fakes.publishers import new_publisher, published


@pytest.fixture
def repository(tmp_path):
    """Five revisions: the tree of revision N has the files /2 to /N."""
    repository = new_publisher(tmp_path, auto_tag=False)
    for number in range(2, 6):
        with repository.transaction() as transaction:
            transaction.put_file(f"/{number}", b"%d" % number)
    for number in (3, 4):
        add_tag(repository, f"v{number}", revision=str(number))
    return repository


def test_an_old_tree_becomes_a_new_revision(repository):
    before = repository.head()
    done = rollback(repository, "v3")
    after = published(repository)
    assert (done.before, done.number, done.target.number) == (5, 6, 3)
    assert after.paths == ["", "/2", "/3"]
    assert after.manifest.revision == 6
    assert after.manifest.root_catalog != done.target.root
    assert after.manifest.timestamp > before.manifest.timestamp or after.manifest.timestamp == before.manifest.timestamp
    with repository.catalogs.load(after.manifest.root_catalog) as catalog:
        assert (catalog.revision, catalog.previous) == (6, before.root)
        assert catalog.last_modified <= after.manifest.timestamp


def test_later_tags_go_and_the_target_tag_names_the_new_revision(repository):
    done = rollback(repository, "v3")
    tags = {tag.name: tag.revision for tag in published(repository).history.tags}
    assert tags == {"v3": 6, "trunk": 6}
    assert done.removed_tags == ("v4",)


def test_without_a_name_it_undoes_the_last_revision(repository):
    rollback(repository)
    assert published(repository).paths == ["", "/2", "/3", "/4"]


def test_a_rollback_can_be_undone_by_number(repository):
    rollback(repository, "2")
    assert published(repository).paths == ["", "/2"]
    rollback(repository, "5")
    assert published(repository).paths == ["", "/2", "/3", "/4", "/5"]
    assert repository.head().revision == 7


def test_publishing_goes_on_after_a_rollback(repository):
    rollback(repository, "3")
    with repository.transaction() as transaction:
        transaction.put_file("/new", b"new")
    assert published(repository).paths == ["", "/2", "/3", "/new"]


def test_there_is_nothing_to_go_back_to_in_a_new_repository(tmp_path):
    repository = new_publisher(tmp_path)
    with pytest.raises(RepositoryError, match="no revision to go back to"):
        rollback(repository)


@pytest.mark.parametrize("to", ["trunk", "5"])
def test_the_current_revision_is_no_target(repository, to):
    before = repository.head()
    with pytest.raises(RepositoryError, match="already"):
        rollback(repository, to)
    assert repository.head() is before


def test_an_unknown_target_changes_nothing(repository):
    before = repository.head()
    with pytest.raises(RepositoryError):
        rollback(repository, "v9")
    assert repository.head() is before
