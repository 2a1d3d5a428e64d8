"""The site is built from the pages with every link holding, and what pages tell people to type exists."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from petrflow.config import schema_of
from tests.helpers.pages import lines

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/zh/*.md")])
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
RULES = {
    name
    for path in (REPOSITORY / "Snakefile", *(REPOSITORY / "workflow/rules").glob("*.smk"))
    for name in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
}
OPTIONS_WITH_VALUE = {
    "--cores",
    "--sdm",
    "--configfile",
    "--profile",
    "--workflow-profile",
    "--resources",
    "-R",
    "--config",
}
RESULTS = re.compile(r"^(?:data|results)/")


def test_the_site_is_built_and_every_link_and_anchor_holds(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "site.py"), str(tmp_path / "site")]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for page in PAGES:
        name = page.relative_to(REPOSITORY).with_suffix(".html")
        name = name.with_name("index.html") if name.name == "README.html" else name
        assert (tmp_path / "site" / name).exists(), name
    loaded = [
        address
        for page in (tmp_path / "site").rglob("*.html")
        for address in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)', page.read_text("utf-8"))
    ]
    assert loaded == []


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for page in ("tools/site.py", "tools/mkdocs.yml", *(str(page.relative_to(REPOSITORY)) for page in PAGES)):
        (repository / page).parent.mkdir(parents=True, exist_ok=True)
        (repository / page).write_bytes((REPOSITORY / page).read_bytes())
    page = repository / "docs" / "gpu.md"
    page.write_text(page.read_text("utf-8") + "\n[nowhere](evaluation.md#nowhere)\n", "utf-8")
    command = [sys.executable, str(repository / "tools" / "site.py"), str(tmp_path / "site")]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 1
    assert "evaluation.md#nowhere" in finished.stdout + finished.stderr


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, str(REPOSITORY / "tools" / "site.py"), str(tmp_path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def commands(page: Path) -> list[list[str]]:
    """The words of every command of make and Snakemake on a page, in code blocks and in code spans."""
    texts = [line for kind, line in lines(page) if kind == "code"]
    prose = "\n".join(line for kind, line in lines(page) if kind != "code")
    texts += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    found = []
    for text in texts:
        for part in re.split(r"&&|;|\|", re.sub(r"(?:^|\s)#\s.*", "", text)):
            start = re.search(r"(?:^|\s)(make|(?:\.venv/bin/)?snakemake) ", part)
            if start:
                found.append(shlex.split(part[start.start(1) :]))
    return found


def _is_placeholder(word: str) -> bool:
    return "…" in word or bool(re.search(r"\b[A-Z]{3,}\b", word)) or "{" in word


def _targets(words: list[str]) -> list[str]:
    """What a command of Snakemake asks for."""
    targets, skip = [], False
    for word in words[1:]:
        if skip or word.startswith("-"):
            skip = word in OPTIONS_WITH_VALUE
            if word == "-R":
                skip = False
        else:
            targets.append(word)
    return targets


def _check_target(target: str) -> str | None:
    if _is_placeholder(target) or target in RULES or RESULTS.match(target):
        return None
    return f"there is no target {target}"


def _check_file(name: str) -> str | None:
    if _is_placeholder(name) or not name.startswith(("config/", "profiles/")) or (REPOSITORY / name).exists():
        return None
    return f"there is no {name}"


def faults(words: list[str]) -> list[str]:
    """What a command names that is not there."""
    checks: list[str | None] = []
    if words[0] == "make":
        known = {
            name for line in re.findall(r"^([a-z][a-z -]*):(?!=)", MAKEFILE, re.MULTILINE) for name in line.split()
        }
        variables = set(re.findall(r"(?:\$\((?:or \$\()?|export )([A-Z_]+)\b", MAKEFILE))
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if equals and re.fullmatch("[A-Z_]+", name):
                checks.append(None if name in variables else f"make knows no variable {name}")
                if name == "TARGET":
                    checks.append(_check_target(value))
                elif name == "CONFIG":
                    checks.append(_check_file(value))
                elif name == "ARGS":
                    checks += [fault for fault in faults(["snakemake", *shlex.split(value)]) if "target" not in fault]
            elif not _is_placeholder(word) and word != ".venv/.petrflow-synced":
                checks.append(None if word in known else f"make knows no target {word}")
    else:
        checks += [_check_target(target) for target in _targets(words)]
        for option, value in itertools.pairwise(words):
            if option in ("--configfile", "--profile", "--workflow-profile"):
                checks.append(_check_file(value))
            if option == "--config":
                checks += _unknown_keys(value)
    return [fault for fault in checks if fault]


def _unknown_keys(assignment: str) -> list[str | None]:
    name, _, value = assignment.partition("=")
    return list(_walk({name: yaml.safe_load(value)}))


def _keys(schema: object) -> set[str]:
    """The keys that a schema knows, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(_keys, schema))
    if not isinstance(schema, dict):
        return set()
    own = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
    return set(own).union(*map(_keys, schema.values()))


KEYS = _keys(schema_of("config")) | _keys(schema_of("model"))


def _walk(value: object, named: bool = False) -> list[str]:
    """Keys of a piece of configuration that no schema knows; the names below datasets and runs are a person's own."""
    found = []
    if isinstance(value, dict):
        for key, inner in value.items():
            if not named and key not in KEYS:
                found.append(f"no configuration has a key {key}")
            found += _walk(inner, named=key in ("datasets", "runs", "class_map", "cameras", "judging", "expect"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_commands_on_the_pages_name_what_exists(page: Path) -> None:
    assert {" ".join(words): wrong for words in commands(page) if (wrong := faults(words))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_pieces_of_configuration_on_the_pages_have_keys_that_exist(page: Path) -> None:
    """In code spans such as ``weights: {run: NAME}``, and in blocks that begin with ``datasets:`` or ``runs:``."""
    prose = "\n".join(line for kind, line in lines(page) if kind != "code")
    pieces = [" ".join(span.split()) for span in re.findall(r"`([a-z_]+: \{[^`]*\})`", prose)]
    block: list[str] = []
    for kind, line in [*lines(page), ("prose", "")]:
        if kind == "code" and (block or re.match(r"(?:datasets|runs):", line)):
            block.append(line)
        elif block:
            pieces.append("\n".join(block))
            block = []
    wrong = {}
    for piece in pieces:
        if "…" in piece or piece.startswith("forklift: "):  # the name of a class
            continue
        whole = yaml.safe_load(piece)
        if faulty := _walk(whole):
            wrong[piece] = faulty
    assert wrong == {}


def test_the_checks_see_what_is_wrong() -> None:
    assert faults(shlex.split("make rum")) == ["make knows no target rum"]
    assert faults(shlex.split("make run CONFIG=config/presets/none.yaml TARGET=trian_all KONFIG=x")) == [
        "there is no config/presets/none.yaml",
        "there is no target trian_all",
        "make knows no variable KONFIG",
    ]
    assert faults(shlex.split("snakemake --cores all --sdm conda trian_all")) == ["there is no target trian_all"]
    assert _walk({"runs": {"mine": {"scheddule_of_mine": {"epochs": 2}}}}) == [
        "no configuration has a key scheddule_of_mine"
    ]


def test_make_help_groups_every_target() -> None:
    finished = subprocess.run(["make", "help"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    documented = re.findall(r"^([a-z][a-z -]*):.*## ", MAKEFILE, re.MULTILINE)
    for line in documented:
        for name in line.split():
            assert re.search(rf"^  {name} +\S", finished.stdout, re.MULTILINE), name
    assert len(re.findall(r"^\S.*:$", finished.stdout, re.MULTILINE)) >= 4
