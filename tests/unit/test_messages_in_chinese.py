"""What petrflow says to a person: every text has its Chinese one, and English stays as it stands in the code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from petrflow import messages
from petrflow.messages import _, language

PROJECT = Path(__file__).resolve().parents[2]
HAN = re.compile(r"[\u4e00-\u9fff]")

spec = importlib.util.spec_from_file_location("messages_tool", PROJECT / "tools" / "messages.py")
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_no_text_is_without_its_chinese() -> None:
    assert sorted(set(tool.texts()) - set(tool.translations())) == []
    assert len(tool.texts()) > 100


def test_translations_have_places_for_what_the_texts_have_and_keep_their_code() -> None:
    for text, chinese in tool.translations().items():
        assert tool.fields(chinese) <= tool.fields(text), text
        assert tool.fields(text) - tool.fields(chinese) <= {"plural"}, text
        assert set(re.findall("`[^`]*`", chinese)) == set(re.findall("`[^`]*`", text)), text


def test_marked_texts_are_constants() -> None:
    """A text that is put together before it is marked stands in no catalogue."""
    marked = re.compile(r"(?<![\w.])N?_\((f?)[\"']")
    for path in sorted((PROJECT / "src" / "petrflow").rglob("*.py")):
        assert "f" not in marked.findall(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW"}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "PETRFLOW_LANG": "zh"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "PETRFLOW_LANG": "en"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_environment_chooses_the_language(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_english_is_what_stands_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETRFLOW_LANG", "en")
    for text in tool.texts():
        assert _(text) == text


def test_chinese_is_what_stands_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETRFLOW_LANG", "zh")
    for text, chinese in tool.translations().items():
        assert _(text) == chinese
    assert _("unknown key{hint}.", hint="") == "不认识的键。"
    assert _("a text that nobody knows, {name}", name=1) == "a text that nobody knows, 1"


def test_without_its_catalogue_petrflow_speaks_english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PETRFLOW_LANG", "zh")
    monkeypatch.setattr(messages, "LOCALE", tmp_path)
    messages._catalogue.cache_clear()
    try:
        assert _("unknown key{hint}.", hint="") == "unknown key."
    finally:
        messages._catalogue.cache_clear()


MISTAKES = """\
datasets:
  mine: {kind: nuscenes, source: /nowhere}
runs:
  one: {dataset: mien, model: petrv2_tinny, schedule: {epochs: 0, batch_sise: 2, learning_rate: fast}, weights: none.pdparams}
"""


def report(folder: Path, **environment: str) -> str:
    """What the pass over a configuration with mistakes says, in a process of its own."""
    (folder / "mine.yaml").write_text(MISTAKES)
    code = (
        "from pathlib import Path; from petrflow.preflight.mistakes import read_all, report;"
        f"print(report(read_all(['mine.yaml'], models=[Path({str(PROJECT / 'config/models')!r})]).mistakes))"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PETRFLOW_LANG"))}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=clean | environment, capture_output=True, check=True
    )
    return finished.stdout.decode("utf-8")


def test_mistakes_are_said_in_chinese_where_the_locale_is_and_in_english_elsewhere(tmp_path: Path) -> None:
    english = report(tmp_path, LANG="C")
    assert english == report(tmp_path, LANG="en_US.UTF-8") == report(tmp_path)
    assert "unknown key; did you mean 'batch_size'." in english
    assert not HAN.search(english)
    chinese = report(tmp_path, LANG="zh_CN.UTF-8", PYTHONUTF8="1")
    lines = chinese.splitlines()
    assert len(lines) == len(english.splitlines())
    assert "不认识的键；是不是想写 'batch_size'。" in chinese
    sentences = [line.rpartition(": ")[2] for line in lines]
    assert [sentence for sentence in sentences if not HAN.search(sentence)] == []
    assert [line for line in lines if re.search(r"(?:[a-z]{2,} ){3}", line)] == []
