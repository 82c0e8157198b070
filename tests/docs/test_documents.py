"""What the documents say is so."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cdn.cli.commands import ENTRIES
from cdn.cli.failures import DEBUG_VARIABLE
from cdn.cli.main import FAULT_VARIABLE
from cdn.cli.options import LOG_FORMAT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("requirements/*.md")])
DECISIONS = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def anchors(path):
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@named(DOCUMENTS)
def test_every_link_inside_the_tree_leads_somewhere(path):
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target or target.startswith("mailto:"):
            continue
        place, _, anchor = target.partition("#")
        linked = (path.parent / place) if place else path
        assert linked.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@named(DOCUMENTS)
def test_every_target_of_make_that_is_mentioned_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", path.read_text(), re.MULTILINE))
    assert mentioned <= targets


@named(DOCUMENTS)
def test_every_command_that_is_mentioned_exists(path):
    mentioned = re.findall(r"(?:^ {4,}(?:\$ )?|`)cdn ([a-z][a-z-]*)", path.read_text(), re.MULTILINE)
    assert set(mentioned) <= set(ENTRIES)


@named(DECISIONS)
def test_every_decision_has_its_four_parts_and_is_in_the_index(path):
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[:4] == ["Context", "Options", "Choice", "Consequences"]
    assert f"]({path.name})" in (ROOT / "docs/decisions/README.md").read_text()


def test_decisions_are_numbered_without_repetition():
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(numbers) == len(set(numbers))


def test_every_target_of_make_is_in_its_help():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE):
        assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE), target


def test_the_changelog_has_a_section_for_what_is_to_come():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_a_lock_file_pins_everything_and_names_no_server(name):
    lock = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "://" not in lock
    assert not re.search(
        r"^\s*-", re.sub(r"^ +--hash=sha256:[0-9a-f]{64}( \\)?$", "", lock, flags=re.MULTILINE), re.MULTILINE
    )
    packages = re.findall(
        r"^([a-z0-9][a-z0-9-]*)==\S+(?: ; [^\\]+)? \\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE
    )
    assert len(packages) == len(re.findall(r"^[^\s#]", lock, re.MULTILINE))


@pytest.mark.parametrize("name", ["runtime", "dev"])
def test_a_lock_file_holds_every_dependency_of_the_project(name):
    lock = (ROOT / "requirements" / f"{name}.lock").read_text()
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]]
    if name == "dev":
        wanted += [each for each in PROJECT["dependency-groups"]["dev"] if isinstance(each, str)]
    for requirement in wanted:
        package = re.split(r"[>=;\[ ]", requirement)[0].lower().replace(".", "-").replace("_", "-")
        assert re.search(rf"^{package}==", lock, re.MULTILINE), f"{package}: run `make lock`"


def test_both_lock_files_choose_the_same_versions():
    runtime, development = (
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements" / f"{name}.lock").read_text(), re.MULTILINE))
        for name in ("runtime", "dev")
    )
    assert {name: development[name] for name in runtime} == runtime


def test_ci_is_make_check_and_its_script_is_sound():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)
    assert "make check" in script.read_text()


def test_every_environment_variable_is_documented():
    page = (ROOT / "docs" / "operations" / "command-line.md").read_text()
    for name in (DEBUG_VARIABLE, FAULT_VARIABLE, LOG_FORMAT_VARIABLE):
        assert f"| `{name}` |" in page


def test_every_module_of_the_core_has_its_layer():
    contract = next(each for each in PROJECT["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    layered = set(re.findall(r"cdn\.(\w+)", " ".join(contract["layers"])))
    modules = {
        path.stem for path in (ROOT / "cdn").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"__init__", "__main__"} == layered


def test_the_layers_of_the_edge_are_told_as_the_contract_has_them():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each.get("containers") == ["edge"])
    table = (ROOT / "ARCHITECTURE.md").read_text().partition("| layer of `edge` |")[2].partition("\n\n")[0]
    told = [re.findall(r"`(\w+)`", row) for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)]
    assert told == [layer.split(" | ") for layer in layers]
