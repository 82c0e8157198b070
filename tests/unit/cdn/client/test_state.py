from __future__ import annotations

from dataclasses import replace

import pytest

from cdn.client.bootstrap import NOTHING_KNOWN, Authority, Known, verify
from cdn.client.state import RepositoryState
from cdn.trust import Breadcrumb
from tests.fakes.signer import FQRN, NOW, Signer


@pytest.fixture
def signer():
    return Signer()


@pytest.fixture
def authority(signer):
    return Authority(FQRN, tuple(signer.master_keys))


def verified(signer, authority, revision=5):
    manifest = signer.manifest(revision=revision, root_catalog=signer.digest(b"%d" % revision))
    return verify(authority, manifest, signer.whitelist(), signer.stored_certificate, now=NOW, known=NOTHING_KNOWN)


def test_nothing_is_known_at_first(tmp_path, authority):
    state = RepositoryState(tmp_path / "absent", FQRN)
    assert state.known() == NOTHING_KNOWN
    assert state.last_verified(authority, now=NOW) is None


def test_what_was_verified_is_known_to_the_next_process(tmp_path, signer, authority):
    RepositoryState(tmp_path, FQRN).remember(verified(signer, authority))
    state = RepositoryState(tmp_path, FQRN)
    assert state.known() == Known(Breadcrumb(signer.digest(b"5"), NOW, 5), NOW)
    assert state.last_verified(authority, now=NOW + 10**9).manifest.revision == 5


def test_it_never_goes_back(tmp_path, signer, authority):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority, 6))
    state.remember(verified(signer, authority, 5))
    assert state.known().breadcrumb.revision == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"breadcrumb": 5, "whitelist_created": 1}',
        '{"breadcrumb": "zz", "whitelist_created": 1}',
        "\xff" * 9,
    ],
)
def test_a_damaged_note_is_made_good_by_the_documents(tmp_path, signer, authority, text):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority))
    (tmp_path / FQRN / "newest").write_text(text, encoding="latin-1")
    assert state.known() == Known(Breadcrumb(signer.digest(b"5"), NOW, 5), NOW)


def test_a_note_that_was_changed_to_a_higher_revision_does_not_lock_anybody_out(tmp_path, signer, authority):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority))
    note = tmp_path / FQRN / "newest"
    note.write_text(note.read_text().replace("R5", "R95"))
    assert state.known().breadcrumb.revision == 5


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_where_the_documents_are_damaged_the_note_is_believed(tmp_path, signer, authority, damage):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority))
    for name in ("manifest", "whitelist"):
        file = tmp_path / FQRN / name
        file.write_bytes(
            file.read_bytes().replace(b"S5", b"S6").replace(b"2023", b"2022") if damage is None else damage
        )
    assert state.known() == Known(Breadcrumb(signer.digest(b"5"), NOW, 5), NOW)


def test_where_everything_is_damaged_nothing_is_known(tmp_path, signer, authority):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority))
    for name in ("newest", "manifest", "whitelist"):
        (tmp_path / FQRN / name).write_bytes(b"nonsense")
    assert state.known() == NOTHING_KNOWN


def test_documents_of_another_authority_are_not_believed(tmp_path, signer, authority):
    state = RepositoryState(tmp_path, FQRN)
    state.remember(verified(signer, authority))
    stranger = replace(authority, master_keys=tuple(Signer(master="other master").master_keys))
    assert state.last_verified(stranger, now=NOW) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, signer, authority):
    (tmp_path / "file").touch()
    RepositoryState(tmp_path / "file", FQRN).remember(verified(signer, authority))
