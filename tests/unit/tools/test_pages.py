"""The pages: what is generated is up to date, the index is whole, links lead somewhere, and one version stands everywhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("benchmarks/*.md")])


@pytest.mark.parametrize("script", ["config_page.py", "messages.py", "conda_environments.py"])
def test_what_is_made_from_schema_and_lock_is_up_to_date(script: str) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / script), "--check"]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, f"run `make generate`: {finished.stdout}{finished.stderr}"


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (REPOSITORY / "docs").glob("*.md") if f"]({page.name})" not in index]
    assert missing in ([], ["README.md"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    known = {name for line in re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE) for name in line.split()}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", text, re.MULTILINE):
            assert name in known, f"{page.name}: make {name}"


def test_project_citation_and_changelog_name_one_version() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)[0] == project["version"]


def test_the_changelog_names_the_version_constants_where_they_are() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    rules = re.findall(r"`([A-Z_]+_VERSION)` \(`(petrflow[.\w]+)`\)", changelog)
    assert sorted(name for name, _ in rules) == ["FORMAT_VERSION", "LOOP_VERSION"]
    for name, module in rules:
        path = REPOSITORY / "src" / Path(*module.split(".")).with_suffix(".py")
        assert re.search(rf"^{name} = \d+$", path.read_text(encoding="utf-8"), re.MULTILINE), f"{module}.{name}"


# ------------------------------------------------------------------------------------------------- pages about the code

SOURCE = REPOSITORY / "src" / "petrflow"
LAYERS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
][0]
PACKAGES = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}


def _is_there(dotted: str) -> bool:
    """Whether ``petrflow.package.module.name`` names something in the source, read and not imported."""
    place, parts = SOURCE, dotted.removeprefix("petrflow.").split(".")
    while parts and (place / parts[0]).is_dir():
        place = place / parts.pop(0)
    if parts and (place / f"{parts[0]}.py").exists():
        place = place / f"{parts.pop(0)}.py"
    text = (place if place.suffix else place / "__init__.py").read_text(encoding="utf-8")
    return not parts or (len(parts) == 1 and re.search(rf"\b{parts[0]}\b", text) is not None)


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/extending.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_what_the_pages_name_in_the_code_is_there(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:petrflow\.)?[a-z_]+(?:\.[A-Za-z_]+)+)[`(]", text)
    of_ours = [name for name in named if name.removeprefix("petrflow.").split(".")[0] in PACKAGES]
    assert [
        name for name in of_ours if name.rpartition(".")[2] not in ("md", "py", "smk") and not _is_there(name)
    ] == []
    folders = r"`((?:src|workflow|tests|tools|config|docs|resources)/[\w./-]*)`"
    paths = [path for path in re.findall(folders, text) if not re.search(r"[A-Z]{4,}", path)]  # PACKAGE, NAME, KIND
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_the_architecture_page_lists_the_layers_of_the_contract() -> None:
    text = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8").partition("## The layers")[2]
    rows = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)]
    layers = [set(re.findall(r"\w+", re.sub(r"\(\w+\)", "", layer))) for layer in LAYERS["layers"]]
    assert rows == [layer for layer in layers if layer]
