"""What is written is read back the same, and any other bytes raise the one documented error."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdn.certificate import Certificate, Fingerprint
from cdn.errors import DocumentError, TrustError
from cdn.hashing import Algorithm, Digest, digest_of
from cdn.history import History
from cdn.manifest import Manifest
from cdn.metainfo import Metainfo
from cdn.objects import ObjectName
from cdn.reflog import Reflog
from cdn.signing import Scheme, SignedText
from cdn.trust import Blacklist, Breadcrumb
from cdn.whitelist import Whitelist
from tests.fakes.signer import Signer, key
from tests.strategies import digests, histories, manifests, object_names, reflogs, timestamps, whitelists

SIGNER = Signer()


@given(digests())
def test_digest_texts(digest: Digest) -> None:
    assert Digest.parse(digest.text) == digest
    fingerprint = Fingerprint(digest)
    assert Fingerprint.parse(fingerprint.text) == fingerprint


@given(object_names())
def test_object_paths(name: ObjectName) -> None:
    assert ObjectName.parse(name.path) == name


@given(manifests())
def test_manifests(manifest: Manifest) -> None:
    assert Manifest.parse(manifest.to_body()) == manifest


@given(manifests(), st.sampled_from("HMY"), st.text(st.characters(exclude_characters="\n"), max_size=60))
def test_no_text_after_an_optional_key_of_a_manifest_makes_it_unreadable(
    manifest: Manifest, key: str, text: str
) -> None:
    read = Manifest.parse(manifest.to_body() + f"{key}{text}\n".encode("utf-8", "surrogatepass"))
    field = {"H": "history", "M": "metainfo", "Y": "reflog"}[key]
    digest = getattr(read, field)
    assert digest is None or digest.text == text
    assert replace(read, **{field: None}) == replace(manifest, **{field: None})


@given(whitelists())
def test_whitelists(whitelist: Whitelist) -> None:
    assert Whitelist.parse(whitelist.to_body()) == whitelist


@given(whitelists(), timestamps)
def test_a_whitelist_is_expired_exactly_when_real_clients_say_so(whitelist: Whitelist, now: int) -> None:
    def hour(seconds: int) -> tuple[int, ...]:
        return datetime.fromtimestamp(seconds, UTC).timetuple()[:4]

    for moment in (now, whitelist.expires, whitelist.expires_at, whitelist.expires_at - 1, whitelist.expires_at + 3600):
        if 0 <= moment <= 253_402_300_799:
            is_valid = hour(moment) < hour(whitelist.expires)
            assert whitelist.is_expired(moment) is not is_valid


@given(manifests(), st.sampled_from(Algorithm), st.sampled_from(Scheme))
@settings(max_examples=30)
def test_signed_texts(manifest: Manifest, algorithm: Algorithm, scheme: Scheme) -> None:
    text = SignedText.of("tested", manifest.to_body(), algorithm).signed(key("manager"), scheme)
    parsed = SignedText.parse("tested", text.to_bytes())
    assert parsed == text
    parsed.verify(key("manager").public_key(), scheme)


@given(histories())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_histories(history: History) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history.write(Path(folder, "h"))
        assert History.read(Path(folder, "h")) == history


@given(reflogs())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_reflogs(reflog: Reflog) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reflog.write(Path(folder, "r"))
        assert Reflog.from_bytes(Path(folder, "r").read_bytes()) == reflog


@given(digests(), st.integers(0, 10**18), st.integers(0, 10**18))
def test_breadcrumbs(digest: Digest, timestamp: int, revision: int) -> None:
    breadcrumb = Breadcrumb(digest, timestamp, revision)
    assert Breadcrumb.parse(breadcrumb.text) == breadcrumb


@pytest.mark.parametrize("parse", [Manifest.parse, Whitelist.parse, Certificate.parse, Certificate.from_object])
@given(data=st.binary(max_size=2000))
@example(data=b"\n" * 500)
def test_arbitrary_bytes_are_a_document_or_damaged(parse: object, data: bytes) -> None:
    with suppress(DocumentError):
        parse(data)  # type: ignore[operator]


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_an_envelope_metainfo_or_history_or_damaged(data: bytes) -> None:
    for parse in (
        lambda data: SignedText.parse("tested", data),
        Metainfo.parse,
        History.from_object,
        Reflog.from_bytes,
    ):
        with suppress(DocumentError):
            parse(data)


@given(st.binary(max_size=2000))
def test_a_blacklist_of_arbitrary_bytes_is_read(data: bytes) -> None:
    Blacklist.parse(data)


@given(st.data())
@settings(max_examples=200)
def test_no_mutation_of_signed_documents_is_believed(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([SIGNER.manifest(), SIGNER.whitelist()]))
    position = data.draw(st.integers(0, len(original)))
    removed = data.draw(st.integers(0, 8))
    mutated = original[:position] + data.draw(st.binary(max_size=8)) + original[position + removed :]
    trusted = SIGNER.trusted()
    trusted.load_whitelist(SIGNER.whitelist())
    trusted.load_certificate(SIGNER.stored_certificate)
    load = trusted.load_whitelist if original.startswith(b"20") else trusted.load_manifest
    if mutated == original:
        load(mutated)
        return
    with pytest.raises((DocumentError, TrustError)):
        load(mutated)


@given(st.binary(max_size=200), st.sampled_from(Algorithm))
def test_a_digest_line_fits_one_body_only(body: bytes, algorithm: Algorithm) -> None:
    clean = body.replace(b"\n--\n", b"").removeprefix(b"--\n") + b"x\n"
    text = SignedText.of("tested", clean, algorithm)
    assert text.digest == digest_of(algorithm, clean)
    assert SignedText.parse("tested", text.to_bytes() + b"signature").body == clean
