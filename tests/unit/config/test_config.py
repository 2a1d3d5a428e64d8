"""The config: mistakes become one sentence each, defaults are filled in, documents follow the schema."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from petrflow.config import load_schema, load_yaml, model_path, training_settings, validate
from petrflow.errors import PetrflowError

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA = load_schema(REPOSITORY / "workflow" / "schemas" / "config.schema.yaml")
DEFAULT = load_yaml(REPOSITORY / "config" / "config.yaml")


def complaint(*keys: str, value: Any) -> str:
    """What validation says when one key of the default config has another value; a value of `KeyError` removes the key."""
    config = copy.deepcopy(DEFAULT)
    entry = config
    for key in keys[:-1]:
        entry = entry[key]
    if value is KeyError:
        del entry[keys[-1]]
    else:
        entry[keys[-1]] = value
    with pytest.raises(PetrflowError) as caught:
        validate(config, SCHEMA)
    return str(caught.value)


SCHEDULE = ("runs", "default", "schedule")


@pytest.mark.parametrize(
    ("keys", "value", "parts"),
    [
        ((*SCHEDULE, "learning_rat"), 1.0, ["runs.default.schedule.learning_rat", "unknown key", "'learning_rate'"]),
        ((*SCHEDULE, "epochs"), "ten", ["runs.default.schedule.epochs", "a whole number", "'ten'"]),
        ((*SCHEDULE, "epochs"), True, ["runs.default.schedule.epochs", "a whole number"]),
        ((*SCHEDULE, "epochs"), 0, ["runs.default.schedule.epochs", "at least 1"]),
        ((*SCHEDULE, "learning_rate"), "1e-4", ["runs.default.schedule.learning_rate", "text", "1.0e-04"]),
        ((*SCHEDULE, "device"), "gpuu", ["runs.default.schedule.device", "auto, cpu, gpu", "'gpu'"]),
        (SCHEDULE, None, ["runs.default.schedule", "a group of keys"]),
        (("runs", "default", "dataset"), "sinthetic", ["runs.default.dataset", "'sinthetic'", "'synthetic'"]),
        (("runs", "default", "dataset"), KeyError, ["runs.default", "'dataset' is missing"]),
        (("runs", "default", "weights"), {"ur": "https://x"}, ["runs.default.weights", "url"]),
        (("runs", "report"), {"dataset": "synthetic", "model": "m"}, ["'report'", "taken"]),
        (("runs", "a b"), {"dataset": "synthetic", "model": "m"}, ["'a b'", "letters"]),
        (("datasets", "synthetic", "kind"), "nuscene", ["datasets.synthetic.kind", "'nuscenes'"]),
        (("datasets", "synthetic", "keyframe"), 3, ["datasets.synthetic.keyframe", "'keyframes'"]),
        (("datasets", "synthetic", "image_size"), [400], ["datasets.synthetic.image_size"]),
        (("datasets",), KeyError, ["'datasets' is missing"]),
        (("dataset",), {}, ["dataset: unknown key", "'datasets'"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_the_keys_path_and_the_nearest_right_name(
    keys: tuple[str, ...], value: Any, parts: list[str]
) -> None:
    message = complaint(*keys, value=value)
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message


def test_defaults_are_filled_in_and_keys_sorted() -> None:
    config = validate({"runs": {"r": {"model": "m", "dataset": "d"}}, "datasets": {"d": {"kind": "synthetic"}}}, SCHEMA)
    assert config["datasets"]["d"]["splits"] == {"train": "mini_train", "val": "mini_val"}
    assert config["runs"]["r"]["schedule"]["batch_size"] == 1
    assert list(config["runs"]["r"]) == sorted(config["runs"]["r"])


def test_every_key_of_the_schedule_is_one_that_training_knows() -> None:
    from petrflow.training.request import Settings

    config = validate(DEFAULT, SCHEMA)
    schedule = dict(config["runs"]["default"]["schedule"])
    del schedule["allow_slow_cpu"]
    Settings.from_schedule(schedule)


def test_what_does_not_shape_a_training_is_what_its_fingerprint_leaves_out() -> None:
    from petrflow.training.request import NOT_SHAPING

    config = validate(DEFAULT, SCHEMA)
    left_out = set(config["runs"]["default"]["schedule"]) - set(training_settings(config["runs"]["default"]))
    assert left_out == set(NOT_SHAPING) - {"epochs"} | {"allow_slow_cpu"}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid_and_their_models_exist(path: Path) -> None:
    config = validate(load_yaml(path), SCHEMA)
    for run in config["runs"].values():
        assert model_path(run["model"], [REPOSITORY / "config" / "models"]).is_file()


def test_a_model_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(PetrflowError, match="petrv2_tiny"):
        model_path("petrv2_tini", [REPOSITORY / "config" / "models"])


def test_every_key_has_a_description() -> None:
    def walk(entry: Any, path: str) -> None:
        if isinstance(entry, dict):
            for key, child in entry.get("properties", {}).items():
                assert "description" in child or "$ref" in child, f"{path}.{key}"
                walk(child, f"{path}.{key}")
            for key, child in entry.get("$defs", {}).items():
                walk(child, key)

    walk(SCHEMA, "")
