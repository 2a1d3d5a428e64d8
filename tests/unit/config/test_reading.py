"""YAML that people write by hand: every fault of the text is one sentence with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from petrflow.config import load_config, load_yaml, read_yaml
from petrflow.errors import PetrflowError

GOOD = "datasets:\n  streets: {kind: synthetic}\nruns:\n  first: {dataset: streets, model: petrv2_tiny}\n"


def said(path: Path, text: str | bytes) -> str:
    """What is said of a configuration of this text."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return "\n".join(str(mistake) for mistake in load_config([path]).mistakes)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (GOOD.replace("  first:", "\tfirst:"), 4, "a tab stands where spaces must; indent with spaces"),
        (GOOD + "  first: {dataset: streets, model: petrv2_tiny}\n", 5, "runs.first: this key stands here a second time, after line 4"),
        (GOOD + "runs: {}\n", 5, "runs: this key stands here a second time, after line 3"),
        (GOOD.replace("streets:", "2024:"), 2, 'YAML reads this name as a number: put it in quotes, "2024"'),
        (GOOD.replace("streets:", "2024-01-15:"), 2, 'YAML reads this name as a date: put it in quotes, "2024-01-15"'),
        (GOOD.replace("streets:", "no:"), 2, "YAML reads this name as true or false: put it in quotes"),
        (GOOD.replace("streets:", "1e3:"), 4, "runs.first.dataset: there is no data set"),
        (GOOD.replace("streets:", "[a]:"), 2, "a key must be a name"),
        (GOOD.replace("runs:", "runs：", 1), 4, "full-width '：': write ': '"),
        (GOOD.replace("first: {", "first: ｛"), 4, "full-width '｛': write '{'"),
        (GOOD.replace("kind: synthetic}", "kind: synthetic"), None, "this is not valid YAML"),
        (GOOD.replace("petrv2_tiny", "'petrv2_tiny"), None, "a quotation mark is not closed"),
        (GOOD.replace("petrv2_tiny", "*tiny"), 4, "no anchor is called"),
        (GOOD.replace("{kind: synthetic}", "&a {kind: *a}"), 2, "an anchor holds itself"),
        (GOOD.replace("petrv2_tiny", "!!python/object:os.system x"), 4, "not valid YAML"),
        (GOOD.replace("petrv2_tiny", "!name x"), 4, "the tag !name is not understood"),
        (GOOD.replace("streets: {kind", "街道: {kind"), 2, "the name '街道' becomes a folder"),
        (GOOD.replace("model:", "模型:"), 4, "runs.first.模型: unknown key"),
        ("", None, "is empty"),
        ("# nothing\n", None, "is empty"),
        ("- a\n- b\n", None, "is a list"),
        ("datasets\n", None, "holds no keys"),
        ("datasets：\n", None, "line 1 has a full-width '：'"),
        (GOOD.encode() + "# 测试".encode("gbk"), 5, "is not UTF-8 text"),
        (GOOD.encode("utf-16"), 1, "is not UTF-8 text"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)), None, "too many values"),
    ],
)  # fmt: skip
def test_a_fault_of_the_text_is_one_sentence_with_its_line(
    tmp_path: Path, text: str | bytes, line: int | None, words: str
) -> None:
    message = said(tmp_path / "config.yaml", text)
    assert words in message, message
    if line is not None:
        assert f"config.yaml, line {line}" in message or f"line {line} is not UTF-8" in message, message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_marks_of_the_encoding_anchors_and_merged_groups_are_understood(tmp_path: Path, encoding: str) -> None:
    text = (
        "common: &common {dataset: streets, model: petrv2_tiny, schedule: &short {epochs: 2}}\n"
        "runs:\n  first: {<<: *common}\n  second:\n    <<: *common\n    schedule: {<<: *short, epochs: 3}\n"
    )
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode(encoding))
    runs = load_yaml(path)["runs"]
    assert runs["first"]["schedule"] == {"epochs": 2}
    assert runs["second"] == {"dataset": "streets", "model": "petrv2_tiny", "schedule": {"epochs": 3}}


def test_all_mistakes_are_told_together_each_with_its_line(tmp_path: Path) -> None:
    text = (
        GOOD.replace("kind: synthetic", "kind: synthetic, scenes: 9000")
        + "  second:\n    datasett: streets\n    model: m\n"
    )
    lines = said(tmp_path / "config.yaml", text).splitlines()
    assert len(lines) == 3, lines
    assert "line 2: datasets.streets.scenes: must be at most 8000" in lines[0]
    assert any("line 6: runs.second.datasett: unknown key; did you mean 'dataset'" in line for line in lines)
    assert any("runs.second: the key 'dataset' is missing" in line for line in lines)


def test_what_the_command_line_gives_is_merged_and_its_text_read_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    overrides = {
        "runs": {
            "first": {
                "schedule": {"epochs": "2", "amp": "null", "do_eval": "false", "learning_rate": "1e-4"},
                "weights": "null",
            }
        }
    }
    document = load_config([path], overrides)
    assert not document.mistakes
    run = document.values["runs"]["first"]
    assert run["dataset"] == "streets" and run["weights"] is None
    assert [run["schedule"][key] for key in ("epochs", "amp", "do_eval", "learning_rate")] == [2, None, False, 1e-4]
    wrong = load_config([path], {"runs": {"first": {"schedule": {"epoch": "2"}}}}).mistakes
    assert str(wrong[0]) == "--config: runs.first.schedule.epoch: unknown key; did you mean 'epochs'."


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mini.yaml").write_text(GOOD)
    with pytest.raises(PetrflowError, match=r"mimi\.yaml: there is no such file; did you mean .*mini\.yaml"):
        load_yaml(tmp_path / "mimi.yaml")
    with pytest.raises(PetrflowError, match="is a folder"):
        load_yaml(tmp_path)


def test_paths_from_home_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(GOOD.replace("model: petrv2_tiny", "model: ~/m.yml, weights: ~/w.pdparams"))
    run = load_config([path]).values["runs"]["first"]
    assert run["weights"] == str(tmp_path / "w.pdparams") and run["model"] == str(tmp_path / "m.yml")


def test_json_with_tabs_is_read_and_places_are_known(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n\t"datasets": {"a": {"kind": "synthetic"}},\n\t"datasets": {}\n}\n')
    document = read_yaml(path)
    assert "line 3" in str(document.mistakes[0]) and "second time" in str(document.mistakes[0])


def test_files_on_snakemakes_command_line_are_read_before_snakemake_does(tmp_path: Path) -> None:
    from snakemake_logger_plugin_petrflow import config_files, unreadable

    assert list(config_files(["-n", "--configfile", "a.yaml", "b.yaml", "--cores", "1"])) == ["a.yaml", "b.yaml"]
    assert list(config_files(["--configfiles=a.yaml", "all"])) == ["a.yaml"]
    good, twice, broken = (tmp_path / name for name in ("good.yaml", "twice.yaml", "broken.yaml"))
    good.write_text(GOOD)
    twice.write_text(GOOD + "runs: {}\n")
    broken.write_text("a: [\n")
    assert not unreadable(["--configfile", str(good), str(twice)])  # what YAML can read, the Snakefile judges
    said_of = unreadable(["--configfile", str(broken), str(tmp_path / "none.yaml"), "all"])
    assert "put targets before it" in unreadable(["--configfile", str(good), "train_all"])[0]
    assert len(said_of) == 3 and "not valid YAML" in said_of[0] and "there is no such file" in said_of[1]
