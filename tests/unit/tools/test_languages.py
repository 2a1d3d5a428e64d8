"""Pages in English and Chinese say the same: headings, tables, commands, keys, files and figures.

Words are not compared. A figure is digits: whoever writes "ten" in English may write 十 or 10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.pages import lines

REPOSITORY = Path(__file__).resolve().parents[3]
FOR_DEVELOPERS = {"annotation-store.md", "architecture.md", "extending.md", "loading.md", "tiny.md"}
"""Pages of docs/ that are in English only: they speak of code and of how the shipped weights were made."""

PAIRS = [
    (REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md"),
    *((REPOSITORY / "docs" / page.name, page) for page in sorted((REPOSITORY / "docs" / "zh").glob("*.md"))),
]
HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass
class Section:
    """What stands between two headings and must be the same in both languages."""

    level: int
    commands: list[str] = field(default_factory=list)
    code: set[str] = field(default_factory=set)
    figures: set[str] = field(default_factory=set)
    rows: list[int] = field(default_factory=list)


def sections(page: Path) -> list[Section]:
    """Read a page section by section."""
    made = [Section(0)]
    prose: list[str] = []
    for kind, line in lines(page):
        if kind == "heading":
            _note_prose(made[-1], prose)
            made.append(Section(len(line) - len(line.lstrip("#"))))
            prose = []
        elif kind == "code":
            made[-1].commands += [command] if (command := _without_comment(line)) else []
        else:
            prose.append(line)
            if line.startswith("|"):
                made[-1].rows.append(len(re.findall(r"(?<!\\)\|", line)))
    _note_prose(made[-1], prose)
    return made


def _without_comment(line: str) -> str:
    """A line of code without its comment, and without what is Chinese about it."""
    code = re.sub(r"(?:^|\s)#\s.*", "", line)
    columns = re.split(r"\s{3,}", code.strip())
    return columns[0].strip()


def _note_prose(section: Section, prose: list[str]) -> None:
    text = "\n".join(line if line.startswith("|") else line.strip() for line in prose)
    text = re.sub(r"(?<=[^\n|])\n(?=[^\n|-])", " ", text)
    spans = re.findall(r"`([^`]+)`", text)
    section.code |= {" ".join(span.split()) for span in spans}
    text = re.sub(r"`[^`]+`", " ", text)
    section.code |= {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)", text) if "://" in target}
    text = re.sub(r"\]\([^)]*\)", "]", text)
    section.figures |= set(re.findall(r"(?<![A-Za-z_\d.])\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?!\d|D\b)", text))


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[chinese.name for _, chinese in PAIRS])
def test_both_languages_have_the_same_headings_tables_commands_keys_and_figures(english: Path, chinese: Path) -> None:
    ours, theirs = sections(english), sections(chinese)
    assert [section.level for section in theirs] == [section.level for section in ours]
    headings = [line for kind, line in lines(english) if kind == "heading"]
    if english.parent.name == "docs" and english.name == "README.md":
        return  # an index of other pages: test_the_chinese_index_is_whole
    for name, here, there in zip(["(top)", *headings], ours, theirs, strict=True):
        place = f"{chinese.relative_to(REPOSITORY)}, section of {name}"
        assert there.commands == here.commands, place
        assert there.rows == here.rows, place
        assert _language_free(there.code) == _language_free(here.code), place
        assert there.figures == here.figures, place


def _language_free(code: set[str]) -> set[str]:
    """Code spans without those that hold words of a language beside code."""
    return {span for span in code if not HAN.search(span)}


def test_the_chinese_index_is_whole() -> None:
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")}
    translated = {page.name for page in (REPOSITORY / "docs" / "zh").glob("*.md")}
    assert pages - translated == FOR_DEVELOPERS
    index = (REPOSITORY / "docs" / "zh" / "README.md").read_text(encoding="utf-8")
    assert [name for name in translated - {"README.md"} if f"]({name})" not in index] == []
    assert [name for name in FOR_DEVELOPERS if f"](../{name})" not in index] == []


@pytest.mark.parametrize("page", [chinese for _, chinese in PAIRS], ids=lambda page: page.name)
def test_chinese_pages_are_chinese(page: Path) -> None:
    """Every paragraph of more than a few words has Chinese in it."""
    english = [
        line
        for kind, line in lines(page)
        if kind == "prose"
        and not HAN.search(line)
        and len(re.findall(r"\b[a-z]{3,}\b", re.sub(r"`[^`]*`", "", line))) > 6
    ]
    assert english == []


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=[chinese.name for _, chinese in PAIRS])
def test_examples_with_xtreme1_start_from_weights(english: Path, chinese: Path) -> None:
    for page in (english, chinese):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^ *parking_lot:\n *dataset: parking_lot\n(?:(?! *```|\n).*\n)*", text, re.MULTILINE):
            assert "weights: {url: https://" in block, page.name
