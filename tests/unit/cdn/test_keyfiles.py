"""Private keys are written and read so that only their owner has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cdn import keyfiles
from cdn.errors import ConfigError, DocumentError
from tests.fakes.signer import key


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_key_is_written_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        keyfiles.write_private_key(tmp_path / "key", key("master"))
    finally:
        os.umask(previous)
    assert mode_of(tmp_path / "key") == 0o600
    assert os.listdir(tmp_path) == ["key"]
    read = keyfiles.read_private_key(tmp_path / "key")
    assert read.private_numbers() == key("master").private_numbers()


def test_a_public_key_is_written_for_everyone_and_read_back(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        keyfiles.write_public_key(tmp_path / "pub", key("master").public_key())
    finally:
        os.umask(previous)
    assert mode_of(tmp_path / "pub") == 0o644
    assert (tmp_path / "pub").read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----\n")
    assert keyfiles.read_public_key(tmp_path / "pub").public_numbers() == key("master").public_key().public_numbers()


def test_a_key_is_not_written_over_another_unless_that_is_said(tmp_path: Path) -> None:
    keyfiles.write_private_key(tmp_path / "key", key("master"))
    with pytest.raises(FileExistsError):
        keyfiles.write_private_key(tmp_path / "key", key("other"))
    assert keyfiles.read_private_key(tmp_path / "key").private_numbers() == key("master").private_numbers()
    keyfiles.write_private_key(tmp_path / "key", key("other"), replace=True)
    assert keyfiles.read_private_key(tmp_path / "key").private_numbers() == key("other").private_numbers()
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_is_not_written_through_a_link_that_waits_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        keyfiles.write_private_key(tmp_path / "key", key("master"))
    keyfiles.write_private_key(tmp_path / "key", key("master"), replace=True)
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "key").is_symlink()


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o666])
def test_a_private_key_that_others_may_read_or_the_group_may_change_is_refused(tmp_path: Path, mode: int) -> None:
    keyfiles.write_private_key(tmp_path / "key", key("master"))
    (tmp_path / "key").chmod(mode)
    with pytest.raises(ConfigError, match=f"open to others \\(mode {mode:04o}\\): run chmod 600"):
        keyfiles.read_private_key(tmp_path / "key")


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440])
def test_a_private_key_for_its_owner_or_its_group_to_read_is_accepted(tmp_path: Path, mode: int) -> None:
    keyfiles.write_private_key(tmp_path / "key", key("master"))
    (tmp_path / "key").chmod(mode)
    keyfiles.read_private_key(tmp_path / "key")


def test_a_key_with_a_pass_phrase_is_refused_with_what_to_do(tmp_path: Path) -> None:
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = key("master").private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    keyfiles.write_file(tmp_path / "key", pem, 0o600, replace=False)
    with pytest.raises(ConfigError, match="has a pass phrase: store it without one"):
        keyfiles.read_private_key(tmp_path / "key")


def test_keys_of_the_wrong_kind_or_size_are_refused(tmp_path: Path) -> None:
    pem = keyfiles.public_pem(ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(DocumentError, match="only such keys sign whitelists"):
        keyfiles.parse_public_key(pem, "tested")
    with pytest.raises(DocumentError, match="no PEM public key"):
        keyfiles.parse_public_key(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "tested")
    with pytest.raises(DocumentError, match="larger than"):
        keyfiles.parse_public_key(pem * 1000, "tested")
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    keyfiles.write_file(tmp_path / "key", private, 0o600, replace=False)
    with pytest.raises(DocumentError, match="neither an RSA nor an elliptic curve key"):
        keyfiles.read_private_key(tmp_path / "key")


def test_what_is_no_key_file_is_refused_without_waiting_or_reading_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(DocumentError, match="no regular file"):
        keyfiles.read_private_key(tmp_path / "pipe")
    keyfiles.write_file(tmp_path / "large", b"x" * (keyfiles.KEY_FILE_BYTES_MAX + 1), 0o600, replace=False)
    with pytest.raises(DocumentError, match="larger than"):
        keyfiles.read_private_key(tmp_path / "large")
    keyfiles.write_file(tmp_path / "text", b"hello", 0o600, replace=False)
    with pytest.raises(DocumentError, match="no PEM private key"):
        keyfiles.read_private_key(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        keyfiles.read_public_key(tmp_path / "none")


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    with pytest.raises(OSError, match="key"):
        keyfiles.write_private_key(tmp_path / "key", key("master"), replace=True)
    assert os.listdir(tmp_path) == ["key"]


def test_that_a_file_cannot_be_written_names_the_file_that_was_meant(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        keyfiles.write_file(tmp_path / "no folder" / "file", b"", 0o644, replace=True)
    assert caught.value.filename == str(tmp_path / "no folder" / "file")
