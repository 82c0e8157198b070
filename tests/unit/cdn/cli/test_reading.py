from __future__ import annotations

import json
import os
import stat
import sys
import time

import pytest
from click.testing import CliRunner

from cdn.cli.main import cdn
from cdn.compression import Compression
from cdn.errors import (
    ConfigError,
    ExternalContentError,
    PathKindError,
    PathMissingError,
    RepositoryError,
    SignatureError,
    UsageError,
)
from cdn.hashing import digest_of
from cdn.keyfiles import write_public_key
from tests.fakes.catalogs import TIME, directory_entry, file_entry, symlink_entry
from tests.fakes.repositories import Publication
from tests.fakes.signer import key

NAME = "sw.example.org"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    publication = Publication(NAME)
    publication.signer.now = int(time.time())
    publication.served[".cvmfswhitelist"] = publication.signer.whitelist()
    publication.publish({"/old": b"old"}, tag="v1")
    publication.publish(
        {
            "/d/a.txt": b"first\n",
            "/d/b.bin": publication.file(bytes(range(256)) * 40, mode=stat.S_IFREG | 0o755),
            "/d/.dot": b"",
            "/external": file_entry(
                b"elsewhere",
                digest=digest_of(publication.algorithm, b"elsewhere"),
                compression=Compression.NONE,
                is_external=True,
            ),
            "/d/link": symlink_entry("$(WHERE:-a.txt)"),
            "/n/deep/file": b"nested",
            "/\udcff": b"odd name",
        },
        ["/n"],
    )
    folder = publication.write_to(tmp_path_factory.mktemp("source") / NAME)
    write_public_key(folder.parent / "key.pub", publication.signer.master_keys[0])
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def run(source, *words: str, bare: bool = False):
    reach = [] if bare else ["--server", str(source), "--key", str(source.parent / "key.pub")]
    done = CliRunner().invoke(cdn, [*words, *reach])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def lines(done) -> list[str]:
    return done.stdout.splitlines()


def test_ls_lists_names(source):
    assert lines(run(source, "ls", f"{NAME}:/d")) == ["a.txt", "b.bin", "link"]
    assert lines(run(source, "ls", "-a", f"{NAME}:/d")) == [".dot", "a.txt", "b.bin", "link"]
    assert lines(run(source, "ls", f"{NAME}:/d/a.txt")) == ["/d/a.txt"]
    assert lines(run(source, "ls", "-d", f"{NAME}:/d")) == ["/d"]


def test_ls_long_shows_modes_sizes_and_where_links_lead(source, monkeypatch):
    monkeypatch.setenv("WHERE", "b.bin")
    found = lines(run(source, "ls", "-l", f"{NAME}:/d"))
    assert found[1].split()[:5] == ["-rwxr-xr-x", "1", "0", "0", "10240"]
    assert found[2].endswith("link -> b.bin")
    assert "10.0 KiB" in run(source, "ls", "-lH", f"{NAME}:/d").stdout


def test_ls_of_several_says_which_is_which(source):
    assert lines(run(source, "ls", f"{NAME}:/d", f"{NAME}:/n")) == [
        f"{NAME}:/d:", "a.txt", "b.bin", "link", "", f"{NAME}:/n:", "deep",
    ]  # fmt: skip


def test_json_is_one_object(source):
    entries = json.loads(run(source, "ls", "--json", f"{NAME}:/d").stdout)["entries"]
    assert [entry["path"] for entry in entries] == ["/d/a.txt", "/d/b.bin", "/d/link"]
    assert entries[0] | {"size_bytes": 6, "type": "file", "mtime": TIME} == entries[0]
    assert entries[2]["target_raw"] == "$(WHERE:-a.txt)"


def test_cat_writes_bytes(source):
    assert (
        run(source, "cat", f"{NAME}:/d/a.txt", f"{NAME}:/d/link", f"{NAME}:/d/b.bin").stdout_bytes
        == b"first\n" * 2 + bytes(range(256)) * 40
    )


def test_external_content_is_read_from_where_it_is_said_to_be(source, tmp_path, monkeypatch):
    (tmp_path / "external").write_bytes(b"elsewhere")
    wrong = tmp_path / "wrong"
    assert (
        run(source, "cat", "--external-url", str(wrong), "--external-url", str(tmp_path), f"{NAME}:/external").stdout
        == "elsewhere"
    )
    monkeypatch.setenv("CDN_EXTERNAL_URLS", f"{wrong};{tmp_path}")
    assert run(source, "cat", f"{NAME}:/external").stdout == "elsewhere"
    monkeypatch.delenv("CDN_EXTERNAL_URLS")
    with pytest.raises(ExternalContentError, match="--external-url"):
        run(source, "cat", f"{NAME}:/external")


def test_a_tag_a_number_or_a_url_may_be_named(source):
    assert run(source, "cat", f"{NAME}:/old", "--tag", "v1").stdout == "old"
    assert run(source, "cat", f"{NAME}:/old", "--revision", "1").stdout == "old"
    assert (
        run(source, "cat", f"file://{source}:/d/a.txt", "--key", str(source.parent / "key.pub"), bare=True).stdout
        == "first\n"
    )
    with pytest.raises(UsageError):
        run(source, "cat", f"{NAME}:/old", "--revision", "1", "--tag", "v1")


def test_stat_tells_everything(source):
    document = json.loads(run(source, "stat", "--json", f"{NAME}:/n/deep/file").stdout)["paths"][0]
    assert document["catalog"]["path"] == "/n"
    assert document | {"revision": 2, "repository": NAME, "size_bytes": 6, "compression": "zlib"} == document
    assert "digest" in run(source, "stat", f"{NAME}:/d/a.txt").stdout
    link, target = (
        json.loads(run(source, "stat", *how, "--json", f"{NAME}:/d/link").stdout)["paths"][0] for how in ([], ["-L"])
    )
    assert (link["type"], target["type"], target["path"]) == ("symlink", "file", "/d/a.txt")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--name", "*.txt"], ["/d/a.txt"]),
        (["-name", "*.txt"], ["/d/a.txt"]),
        (["-type", "l"], ["/d/link"]),
        (["--size", "+1KiB"], ["/d/b.bin"]),
        (["--type", "d", "--max-depth", "1"], ["/", "/d", "/n"]),
        (["--min-depth", "3"], ["/n/deep/file"]),
        (["--path", "/n/*", "--type", "f"], ["/n/.cvmfscatalog", "/n/deep/file"]),
        (["--newer", "2099-01-01"], []),
    ],
)
def test_find_lists_what_matches(source, words, found):
    assert lines(run(source, "find", f"{NAME}:/", *words)) == found


def test_find_can_end_paths_with_nul_so_that_any_name_survives(source):
    assert b"/\xff\0" in run(source, "find", f"{NAME}:/", "-print0").stdout_bytes


def test_tree_draws(source):
    assert lines(run(source, "tree", f"{NAME}:/d")) == [
        "/d", "├── a.txt", "├── b.bin", "└── link -> a.txt", "", "0 directories, 3 files",
    ]  # fmt: skip
    assert lines(run(source, "tree", "--depth", "1", "-D", f"{NAME}:/"))[-1] == "2 directories, 0 files"


def test_lines_of_a_blacklist_that_forbid_nothing_are_told(source, tmp_path):
    (tmp_path / "blacklist").write_text(f"# comment\n<{NAME} two\n")
    (tmp_path / "client.toml").write_text(f'blacklist = "{tmp_path}/blacklist"\n')
    done = run(source, "cat", f"{NAME}:/d/a.txt", "--config", str(tmp_path / "client.toml"))
    assert "first" in done.output
    assert f"warning: the blacklist says '<{NAME} two'" in done.stderr


def test_tree_draws_what_is_deeper_than_calls_may_nest(tmp_path):
    depth = sys.getrecursionlimit() + 10
    publication = Publication(NAME)
    publication.signer.now = int(time.time())
    publication.served[".cvmfswhitelist"] = publication.signer.whitelist()
    publication.publish({"/d" * depth: directory_entry(), "/last": b""})
    folder = publication.write_to(tmp_path / NAME)
    write_public_key(tmp_path / "key.pub", publication.signer.master_keys[0])
    drawn = lines(run(folder, "tree", f"{NAME}:/"))
    assert drawn[1:3] == ["├── d", "│   └── d"]
    assert drawn[depth + 1 :] == ["└── last", "", f"{depth:,} directories, 1 files"]


def test_cp_copies_a_file_or_a_tree(source, tmp_path):
    run(source, "cp", f"{NAME}:/d/b.bin", str(tmp_path))
    assert (tmp_path / "b.bin").stat().st_mode & 0o777 == 0o755
    run(source, "cp", "-r", f"{NAME}:/d", f"{NAME}:/n", str(tmp_path))
    assert (tmp_path / "n/deep/file").read_bytes() == b"nested"
    assert os.readlink(tmp_path / "d/link") == "a.txt"
    document = json.loads(run(source, "cp", "-r", "--json", f"{NAME}:/d", str(tmp_path / "new")).stdout)
    assert (document["files"], document["symlinks"], document["failed"]) == (3, 1, 0)
    with pytest.raises(PathKindError, match="-r"):
        run(source, "cp", f"{NAME}:/d", str(tmp_path / "other"))
    with pytest.raises(UsageError, match="no directory"):
        run(source, "cp", f"{NAME}:/d/a.txt", f"{NAME}:/d/b.bin", str(tmp_path / "absent"))


def test_a_repository_of_this_machine_needs_no_more_than_its_name(source, tmp_path):
    root = tmp_path / "root"
    (root / "srv").mkdir(parents=True)
    (root / "srv" / NAME).symlink_to(source)
    (root / "repositories" / NAME / "keys").mkdir(parents=True)
    (root / "repositories" / NAME / "keys" / f"{NAME}.pub").write_bytes((source.parent / "key.pub").read_bytes())
    assert run(source, "cat", f"{NAME}:/d/a.txt", "--root", str(root), bare=True).stdout == "first\n"


def test_a_configuration_makes_the_short_form_work(source, tmp_path):
    folder = tmp_path / "home/.config/stratocast"
    folder.mkdir(parents=True)
    (folder / "client.toml").write_text(f'servers = "{source.parent}/@fqrn@"\nkeys = ["{source.parent}/key.pub"]\n')
    assert run(source, "cat", f"{NAME}:/d/a.txt", bare=True).stdout == "first\n"


def test_mistakes_are_told_with_what_to_do(source, tmp_path):
    with pytest.raises(PathMissingError, match="no such path in the repository: /nowhere"):
        run(source, "ls", f"{NAME}:/nowhere")
    with pytest.raises(PathKindError, match="a directory"):
        run(source, "cat", f"{NAME}:/d")
    with pytest.raises(ConfigError, match="--key"):
        run(source, "ls", NAME, "--server", str(source), bare=True)
    with pytest.raises(ConfigError, match="--server"):
        run(source, "ls", NAME, bare=True)
    with pytest.raises(RepositoryError, match="no tag 'nowhere'"):
        run(source, "ls", NAME, "--tag", "nowhere")
    write_public_key(tmp_path / "wrong.pub", key("somebody else").public_key())
    with pytest.raises(SignatureError):
        run(source, "ls", NAME, "--server", str(source), "--key", str(tmp_path / "wrong.pub"), bare=True)


def test_a_digest_that_is_none_is_a_mistake_of_the_command_line(source):
    with pytest.raises(UsageError, match="'abc' is no digest of a root catalog"):
        run(source, "ls", f"{NAME}:/", "--root-catalog", "abc")
