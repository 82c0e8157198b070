"""Each test is an attack, or a state of the world that is none."""

from __future__ import annotations

import dataclasses

import pytest

from cdn.certificate import Certificate
from cdn.compression import compress
from cdn.errors import (
    ConfigError,
    DocumentError,
    ExpiredError,
    HashMismatchError,
    NameMismatchError,
    RollbackError,
    SignatureError,
    UntrustedCertificateError,
)
from cdn.hashing import Algorithm
from cdn.manifest import Manifest
from cdn.signing import SignedText
from cdn.trust import Blacklist, Breadcrumb, TrustedRepository, certificate_named_by
from cdn.whitelist import Whitelist
from tests.fakes.signer import FQRN, NOW, Signer, key

DAY = 86_400


def trusted_up_to_certificate(
    signer: Signer, breadcrumb: Breadcrumb | None = None, **options: object
) -> TrustedRepository:
    trusted = signer.trusted(breadcrumb, **options)
    trusted.load_whitelist(signer.whitelist())
    trusted.load_certificate(signer.stored_certificate)
    return trusted


# ---------------------------------------------------------------------------------------------------------- all is well


@pytest.mark.parametrize("algorithm", Algorithm)
def test_documents_signed_as_they_should_be_are_believed(algorithm: Algorithm) -> None:
    signer = Signer(algorithm=algorithm)
    trusted = trusted_up_to_certificate(signer)
    manifest = trusted.load_manifest(signer.manifest())
    assert trusted.manifest is manifest
    assert manifest.revision == 5
    assert trusted.whitelist.fqrn == trusted.fqrn == FQRN
    assert trusted.certificate == signer.certificate


def test_any_one_of_several_master_keys_is_enough() -> None:
    signer = Signer()
    keys = [key("other").public_key(), *signer.master_keys]
    TrustedRepository(FQRN, keys, now=NOW).load_whitelist(signer.whitelist())


def test_a_whitelist_may_list_the_certificate_by_another_algorithm_and_beside_others() -> None:
    signer = Signer()
    others = [Signer(manager="other").certificate.fingerprint()]
    fingerprints = [*others, signer.certificate.fingerprint(Algorithm.SHAKE128)]
    trusted = signer.trusted()
    trusted.load_whitelist(signer.whitelist(Whitelist.valid_for(FQRN, fingerprints, now=NOW)))
    trusted.load_certificate(signer.stored_certificate)


def test_a_certificate_past_its_own_dates_keeps_working() -> None:
    signer = Signer()
    signer.certificate = Certificate.self_signed(FQRN, key("manager"), now=NOW - 5 * 365 * DAY)
    trusted_up_to_certificate(signer).load_manifest(signer.manifest())


def test_the_object_to_fetch_first_is_named_by_the_manifest() -> None:
    signer = Signer()
    name = certificate_named_by(signer.manifest())
    assert name.path.endswith("X")
    assert name.digest == signer.digest(signer.stored_certificate)
    with pytest.raises(DocumentError, match="key X"):
        certificate_named_by(signer.manifest(certificate=None))


def test_the_order_is_the_rule() -> None:
    signer = Signer()
    trusted = signer.trusted()
    with pytest.raises(RuntimeError, match="whitelist must be loaded first"):
        trusted.load_certificate(signer.stored_certificate)
    trusted.load_whitelist(signer.whitelist())
    with pytest.raises(RuntimeError, match="certificate must be loaded first"):
        trusted.load_manifest(signer.manifest())
    trusted.load_certificate(signer.stored_certificate)
    with pytest.raises(RuntimeError, match="manifest must be loaded first"):
        _ = trusted.manifest
    trusted.load_manifest(signer.manifest())
    trusted.load_whitelist(signer.whitelist())  # whatever it allowed before is to be asked again
    with pytest.raises(RuntimeError, match="certificate must be loaded first"):
        _ = trusted.certificate


def test_a_refused_document_leaves_the_set_as_it_was() -> None:
    signer = Signer()
    trusted = trusted_up_to_certificate(signer)
    manifest = trusted.load_manifest(signer.manifest())
    with pytest.raises(SignatureError):
        trusted.load_manifest(Signer(manager="thief").manifest(certificate=manifest.certificate))
    with pytest.raises(SignatureError):
        trusted.load_whitelist(Signer(master="thief").whitelist())
    assert trusted.manifest is manifest


# --------------------------------------------------------------------------------------------- attacks on the whitelist


def test_a_whitelist_signed_by_a_strangers_key_is_refused() -> None:
    with pytest.raises(SignatureError, match="none of the 1 configured master keys"):
        Signer().trusted().load_whitelist(Signer(master="thief").whitelist())


def test_a_whitelist_with_a_fingerprint_added_after_signing_is_refused() -> None:
    thief = Signer(manager="thief")
    data = Signer().whitelist()
    with pytest.raises(HashMismatchError):
        Signer().trusted().load_whitelist(
            data.replace(b"\n--\n", b"\n%s\n--\n" % thief.certificate.fingerprint().text.encode())
        )


def test_a_whitelist_of_another_repository_under_the_same_master_key_is_refused() -> None:
    with pytest.raises(NameMismatchError, match=r"for other\.example\.org, not for sw\.example\.org"):
        Signer().trusted().load_whitelist(Signer(fqrn="other.example.org").whitelist())


def test_an_expired_whitelist_is_refused() -> None:
    data = Signer().whitelist()
    Signer().trusted(now=NOW + 29 * DAY).load_whitelist(data)
    with pytest.raises(ExpiredError, match="has expired"):
        Signer().trusted(now=NOW + 30 * DAY).load_whitelist(data)


def test_an_older_whitelist_that_may_list_a_withdrawn_certificate_is_refused() -> None:
    old = Signer().whitelist()
    Signer().trusted(whitelist_created_min=NOW).load_whitelist(old)
    with pytest.raises(RollbackError, match="older than one already seen"):
        Signer().trusted(whitelist_created_min=NOW + 1).load_whitelist(old)


def test_a_manifest_signature_is_not_taken_for_that_of_a_whitelist() -> None:
    """A manager's key that is also a master key elsewhere still signs no whitelist by mistake."""
    signer = Signer(manager="master")
    body = SignedText.parse("whitelist", signer.whitelist()).body
    with pytest.raises(SignatureError):
        signer.trusted().load_whitelist(signer.sign_manifest(body))


def test_a_whitelist_in_the_pkcs7_form_is_refused_with_a_clear_word() -> None:
    signer = Signer()
    for data in (signer.whitelist(uses_pkcs7=True), b"20260101000000\nE20360131000000\nNsw.example.org\nVpkcs7\n"):
        with pytest.raises(SignatureError, match="PKCS#7 signature \\(Vpkcs7\\), which is not supported"):
            signer.trusted().load_whitelist(data)


def test_a_whitelist_that_demands_more_than_can_be_checked_admits_nobody() -> None:
    signer = Signer()
    trusted = signer.trusted()
    trusted.load_whitelist(signer.whitelist(verify_ca_chain=True))
    with pytest.raises(UntrustedCertificateError, match="Wcachain"):
        trusted.load_certificate(signer.stored_certificate)


def test_without_a_master_key_nothing_is_believed() -> None:
    with pytest.raises(ConfigError, match=r"no public key for sw\.example\.org"):
        TrustedRepository(FQRN, [], now=NOW)


# ------------------------------------------------------------------------------------------- attacks on the certificate


def test_a_certificate_that_the_whitelist_does_not_list_is_refused() -> None:
    trusted = Signer().trusted()
    trusted.load_whitelist(Signer().whitelist())
    with pytest.raises(UntrustedCertificateError, match="is not on its whitelist"):
        trusted.load_certificate(Signer(manager="thief").stored_certificate)


def test_an_empty_whitelist_admits_nobody() -> None:
    signer = Signer()
    trusted = signer.trusted()
    trusted.load_whitelist(signer.whitelist(entries=()))
    with pytest.raises(UntrustedCertificateError):
        trusted.load_certificate(signer.stored_certificate)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_blacklisted_certificate_is_refused_although_it_is_on_the_whitelist(algorithm: Algorithm) -> None:
    signer = Signer()
    blacklist = Blacklist.parse(signer.certificate.fingerprint(algorithm).text.encode() + b" # stolen\n")
    trusted = signer.trusted(blacklist=blacklist)
    trusted.load_whitelist(signer.whitelist())
    with pytest.raises(UntrustedCertificateError, match="is blacklisted"):
        trusted.load_certificate(signer.stored_certificate)


# ---------------------------------------------------------------------------------------------- attacks on the manifest


def test_a_manifest_signed_by_a_strangers_key_is_refused() -> None:
    signer = Signer()
    thief = Signer(manager="thief")
    with pytest.raises(SignatureError):
        trusted_up_to_certificate(signer).load_manifest(
            thief.manifest(certificate=signer.digest(signer.stored_certificate))
        )


def test_a_manifest_with_another_root_catalog_put_in_is_refused() -> None:
    signer = Signer()
    data = signer.manifest().replace(
        signer.digest(b"root catalog 5").text.encode(), signer.digest(b"evil").text.encode()
    )
    with pytest.raises(HashMismatchError, match="manifest has wrong content"):
        trusted_up_to_certificate(signer).load_manifest(data)


def test_a_manifest_of_another_repository_by_the_same_manager_is_refused() -> None:
    signer = Signer()
    with pytest.raises(NameMismatchError, match="the manifest is for"):
        trusted_up_to_certificate(signer).load_manifest(signer.manifest(fqrn="other.example.org"))


def test_a_manifest_without_a_name_is_refused() -> None:
    signer = Signer()
    with pytest.raises(NameMismatchError, match="for no repository"):
        trusted_up_to_certificate(signer).load_manifest(signer.manifest(fqrn=None))


def test_a_manifest_for_something_else_than_the_root_is_refused() -> None:
    signer = Signer()
    body = SignedText.parse("manifest", signer.manifest()).body
    data = signer.sign_manifest(body.replace(b"Rd41d8cd98f00b204e9800998ecf8427e", b"R" + b"1" * 32))
    with pytest.raises(DocumentError, match="key R"):
        trusted_up_to_certificate(signer).load_manifest(data)


def test_a_manifest_that_names_another_certificate_than_the_one_that_signed_it_is_refused() -> None:
    signer = Signer()
    with pytest.raises(HashMismatchError):
        trusted_up_to_certificate(signer).load_manifest(signer.manifest(certificate=signer.digest(b"other")))
    with pytest.raises(DocumentError, match="key X"):
        trusted_up_to_certificate(signer).load_manifest(signer.manifest(certificate=None))


def test_another_encoding_of_the_listed_certificate_is_not_the_object_the_manifest_names() -> None:
    signer = Signer()
    trusted = signer.trusted()
    trusted.load_whitelist(signer.whitelist())
    trusted.load_certificate(compress(signer.certificate.pem, level=1) + b"")
    trusted.load_certificate(compress(b"\n" + signer.certificate.pem))
    with pytest.raises(HashMismatchError):
        trusted.load_manifest(signer.manifest())


# --------------------------------------------------------------------------------------------------- going back in time


def known(signer: Signer, *, revision: int = 5, timestamp: int = NOW, root: bytes = b"root catalog 5") -> Breadcrumb:
    return Breadcrumb(signer.digest(root), timestamp, revision)


def test_a_newer_manifest_and_the_same_one_again_are_believed() -> None:
    signer = Signer()
    trusted = trusted_up_to_certificate(signer, known(signer))
    trusted.load_manifest(signer.manifest())
    trusted.load_manifest(signer.manifest(revision=6, root_catalog=signer.digest(b"6"), timestamp=NOW + 1))


def test_a_manifest_with_an_older_timestamp_is_refused() -> None:
    signer = Signer()
    with pytest.raises(RollbackError, match="older than the known one"):
        trusted_up_to_certificate(signer, known(signer, timestamp=NOW + 1)).load_manifest(signer.manifest(revision=6))


def test_an_older_revision_is_refused_even_with_a_newer_timestamp() -> None:
    signer = Signer()
    with pytest.raises(RollbackError, match="goes back from revision 6 to 5"):
        trusted_up_to_certificate(signer, known(signer, revision=6)).load_manifest(signer.manifest(timestamp=NOW + 9))


def test_another_root_catalog_under_the_known_revision_is_refused() -> None:
    signer = Signer()
    with pytest.raises(RollbackError, match="another root catalog for the known revision 5"):
        trusted_up_to_certificate(signer, known(signer, root=b"fork")).load_manifest(signer.manifest())


def test_revision_zero_says_nothing_about_age() -> None:
    signer = Signer()
    trusted = trusted_up_to_certificate(signer, known(signer, revision=0, root=b"first"))
    trusted.load_manifest(signer.manifest(revision=0))


def test_a_blacklisted_revision_is_refused() -> None:
    signer = Signer()
    blacklist = Blacklist.parse(b"<sw.example.org 6\n<other.example.org 99\n")
    with pytest.raises(RollbackError, match="nothing below 6 is accepted"):
        trusted_up_to_certificate(signer, blacklist=blacklist).load_manifest(signer.manifest())
    trusted_up_to_certificate(signer, blacklist=blacklist).load_manifest(signer.manifest(revision=6))


def test_an_unsigned_manifest_with_the_known_root_is_unchanged_but_never_believed() -> None:
    """Otherwise a forged timestamp or revision beside the known root would make every later, true manifest look old."""
    signer = Signer()
    forgery = Signer(manager="thief").manifest(
        certificate=signer.digest(signer.stored_certificate), timestamp=1 << 60, revision=1 << 60
    )
    trusted = trusted_up_to_certificate(signer, known(signer))
    assert trusted.is_unchanged(forgery)
    with pytest.raises(SignatureError):
        trusted.load_manifest(forgery)
    assert not trusted.is_unchanged(signer.manifest(root_catalog=signer.digest(b"new")))
    assert not signer.trusted().is_unchanged(forgery)
    with pytest.raises(DocumentError):
        trusted.is_unchanged(b"nonsense")


# ------------------------------------------------------------------------------------------ what is kept between checks


def test_a_breadcrumb_keeps_what_a_manifest_said() -> None:
    for algorithm in Algorithm:
        signer = Signer(algorithm=algorithm)
        manifest = Manifest.parse(SignedText.parse("manifest", signer.manifest()).body)
        breadcrumb = Breadcrumb.of(manifest)
        assert breadcrumb.text == f"{manifest.root_catalog}T{NOW}R5"
        assert Breadcrumb.parse(breadcrumb.text) == breadcrumb


def test_breadcrumbs_of_older_clients_are_read() -> None:
    digest = Signer().digest(b"x")
    assert Breadcrumb.parse(digest.text) == Breadcrumb(digest)
    assert Breadcrumb.parse(f"{digest}T7\n") == Breadcrumb(digest, timestamp=7)
    assert Breadcrumb.parse(f"{digest}R7") == Breadcrumb(digest, revision=7)


@pytest.mark.parametrize(
    "text", ["", "T1R1", "0" * 40 + "X", "0" * 39 + "T1R1", "0" * 40 + "T-1", "0" * 40 + "T" + "9" * 99]
)
def test_a_damaged_breadcrumb_is_no_breadcrumb(text: str) -> None:
    with pytest.raises(DocumentError):
        Breadcrumb.parse(text)


# ----------------------------------------------------------------------------------------------------------- blacklists


def test_a_blacklist_holds_fingerprints_and_smallest_revisions() -> None:
    fingerprint = Signer().certificate.fingerprint()
    text = f"# comment\n\n{fingerprint}\t# stolen\n<sw.example.org 7\n<sw.example.org   5\n<other.example.org\t9\n"
    blacklist = Blacklist.parse(text.encode())
    assert blacklist.fingerprints == {fingerprint}
    assert blacklist.revision_min("sw.example.org") == 7
    assert blacklist.revision_min("other.example.org") == 9
    assert blacklist.revision_min("third.example.org") == 0
    assert blacklist.unread == ()


@pytest.mark.parametrize(
    "line", ["<sw.example.org", "<sw.example.org 7 x", "<sw.example.org -7", "<sw.example.org 7x", "nonsense"]
)
def test_a_line_that_forbids_nothing_is_reported(line: str) -> None:
    blacklist = Blacklist.parse(f"{line}\n".encode())
    assert blacklist.unread == (line,)
    assert blacklist.revision_min("sw.example.org") == 0


def test_the_local_and_the_configured_blacklist_both_count() -> None:
    fingerprint = Signer().certificate.fingerprint()
    both = Blacklist.parse(b"<a 1\n<b 5\nx") | Blacklist.parse(f"{fingerprint}\n<b 2\n".encode())
    assert (both.revision_min("a"), both.revision_min("b")) == (1, 5)
    assert both.lists(Signer().certificate)
    assert both.unread == ("x",)


def test_an_enormous_blacklist_is_refused() -> None:
    with pytest.raises(DocumentError, match="larger than"):
        Blacklist.parse(b"\n" * (2 << 20))


def test_values_stay_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Blacklist().unread = ("x",)  # type: ignore[misc]
