"""The form of the whitelist, and when it expires."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cdn.certificate import Fingerprint
from cdn.errors import DocumentError
from cdn.hashing import Algorithm, digest_of
from cdn.whitelist import Whitelist, WhitelistEntry

FINGERPRINT = Fingerprint(digest_of(Algorithm.SHA1, b"certificate"))
SHAKE = Fingerprint(digest_of(Algorithm.SHAKE128, b"certificate"))
HEAD = b"20260101000000\nE20260131123456\nNsw.example.org\n"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_the_lines_are_those_of_the_format() -> None:
    whitelist = Whitelist(
        fqrn="sw.example.org",
        created_at=int(at("2026-01-01")),
        expires=int(at("2026-01-31T12:34:56")),
        entries=(WhitelistEntry(FINGERPRINT, "release manager key 2026"), WhitelistEntry(SHAKE)),
    )
    body = HEAD + f"{FINGERPRINT} # release manager key 2026\n{SHAKE}\n".encode()
    assert whitelist.to_body() == body
    assert Whitelist.parse(body) == whitelist


def test_a_new_one_is_valid_for_thirty_days() -> None:
    now = at("2026-01-01T10:20:30")
    whitelist = Whitelist.valid_for("sw.example.org", [FINGERPRINT], now=now)
    assert whitelist.to_body().startswith(b"20260101102030\nE20260131102030\nNsw.example.org\n")
    assert not whitelist.is_expired(now + 29 * 86_400)
    assert whitelist.is_expired(now + 30 * 86_400)


def test_the_last_hour_that_has_only_begun_does_not_count() -> None:
    whitelist = Whitelist.parse(b"20260101000000\nE20301231235959\nNx\n")
    assert not whitelist.is_expired(at("2030-12-31T22:59:59"))
    assert whitelist.is_expired(at("2030-12-31T23:00:00"))
    assert whitelist.expires_at == at("2030-12-31T23:00:00")


def test_comments_after_a_blank_or_a_hash_sign_are_kept() -> None:
    lines = [f"{FINGERPRINT} # one", f"{SHAKE}\t#two", f"{FINGERPRINT}#three", f"{SHAKE} unmarked"]
    whitelist = Whitelist.parse(HEAD + "\n".join(lines).encode() + b"\n")
    assert [entry.comment for entry in whitelist.entries] == ["one", "two", "three", ""]


def test_lines_that_hold_no_fingerprint_are_passed_over() -> None:
    body = HEAD + b"# a comment\n\nnonsense\n" + str(FINGERPRINT).encode() + b"\n\xff\xfe\n"
    assert Whitelist.parse(body).entries == (WhitelistEntry(FINGERPRINT),)


@pytest.mark.parametrize("pkcs7", [False, True])
@pytest.mark.parametrize("chain", [False, True])
def test_the_two_flags_are_recorded(pkcs7: bool, chain: bool) -> None:
    body = HEAD + b"Vpkcs7\n" * pkcs7 + b"Wcachain\n" * chain + str(FINGERPRINT).encode() + b"\n"
    whitelist = Whitelist.parse(body)
    assert (whitelist.uses_pkcs7, whitelist.verify_ca_chain) == (pkcs7, chain)
    assert whitelist.entries == (WhitelistEntry(FINGERPRINT),)
    assert whitelist.to_body() == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"20260101000000\n",
        b"20260101000000\nE20260131000000\n",
        b"2026010100000\nE20260131000000\nNx\n",
        b"20260101000000\n20260131000000\nNx\n",
        b"20260101000000\nE20261331000000\nNx\n",
        b"20260101000000\nE20260230000000\nNx\n",
        b"20260101000000\nE20260101240000\nNx\n",
        b"20260101000000\nE19691231235959\nNx\n",
        b"20260101000000\nE2026013100000x\nNx\n",
        "20260101000000\nE2026013100000\u0660\nNx\n".encode(),
        b"20260101000000\nE20260131000000\nN\n",
        b"20260101000000\nE20260131000000\nNa/b\n",
        b"20260101000000\nN20260131000000\nEx\n",
    ],
)
def test_without_its_first_three_lines_it_is_damaged(body: bytes) -> None:
    with pytest.raises(DocumentError, match="whitelist is damaged"):
        Whitelist.parse(body)


def test_a_comment_cannot_smuggle_in_a_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        WhitelistEntry(FINGERPRINT, "x\n" + str(SHAKE))


def test_a_time_the_format_cannot_say_is_not_written() -> None:
    with pytest.raises(ValueError, match="cannot name the time"):
        Whitelist("x", 0, 1 << 40, ()).to_body()
