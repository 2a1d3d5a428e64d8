"""The config: mistakes become one sentence each, defaults are filled in, documents follow the schema."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from petrflow.config import (
    RUNTIME_KEYS,
    load_model,
    load_yaml,
    model_path,
    schema_faults,
    schema_of,
    settings,
    shaping,
    training_settings,
    validate,
)
from petrflow.errors import PetrflowError

REPOSITORY = Path(__file__).resolve().parents[3]
SCHEMA = schema_of("config")
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
        validate(config)
    return str(caught.value)


SCHEDULE = ("runs", "default", "schedule")


@pytest.mark.parametrize(
    ("keys", "value", "parts"),
    [
        ((*SCHEDULE, "learning_rat"), 1.0, ["runs.default.schedule.learning_rat", "unknown key", "'learning_rate'"]),
        ((*SCHEDULE, "epochs"), "ten", ["runs.default.schedule.epochs", "a whole number", "'ten'"]),
        ((*SCHEDULE, "epochs"), True, ["runs.default.schedule.epochs", "a whole number"]),
        ((*SCHEDULE, "epochs"), 0, ["runs.default.schedule.epochs", "at least 1"]),
        ((*SCHEDULE, "learning_rate"), "fast", ["runs.default.schedule.learning_rate", "a number", "'fast'"]),
        ((*SCHEDULE, "batch_size"), 2.5, ["runs.default.schedule.batch_size", "a whole number", "2.5"]),
        ((*SCHEDULE, "do_eval"), "yes", ["runs.default.schedule.do_eval", "true or false", "'yes'"]),
        (("runs", "default", "dataset"), 2024, ["runs.default.dataset", "must be text", "put it in quotes"]),
        (("runs", "default", "weights"), {"rum": "x"}, ["runs.default.weights.rum", "'run'"]),
        (("runs", "default", "weights"), {"run": "other"}, ["runs.default.weights.run", "no run 'other'"]),
        (("runs", "default", "weights"), {"run": "default"}, ["runs.default.weights", "own output"]),
        (("runs", "default", "weights"), 7, ["runs.default.weights", "put it in quotes"]),
        (("runs", "default", "expect", "NDSS"), {"value": 1}, ["runs.default.expect", "'NDS'"]),
        (("runs", "Default"), {"dataset": "synthetic", "model": "m"}, ["runs.Default", "case only"]),
        (("runs", "Report"), {"dataset": "synthetic", "model": "m"}, ["runs.Report", "taken"]),
        (("datasets", "synthetic", "density"), 5, ["datasets.synthetic.density", "at most 4"]),
        (("datasets", "synthetic", "vehicle"), {"camera_height": 3}, ["vehicle.camera_height", "at most 2.5"]),
        (("datasets", "synthetic", "vehicle"), {"camera_pitch": [9, 2]}, ["vehicle.camera_pitch", "smaller number first"]),
        (("datasets", "synthetic", "vehicle"), {"focal_length": [0.5]}, ["vehicle.focal_length", "2 values"]),
        (("datasets", "synthetic", "vehicle"), {"camera_hight": 1}, ["'camera_height'"]),
        (("datasets", "synthetic", "light"), "nite", ["datasets.synthetic.light", "'night'"]),
        (("datasets", "synthetic", "light"), ["day", "fogg"], ["datasets.synthetic.light", "'fog'"]),
        (("datasets", "synthetic", "scenes"), 9000, ["datasets.synthetic.scenes", "at most 8000"]),
        (("datasets", "synthetic", "image_size"), [400, 225, 3], ["datasets.synthetic.image_size", "2 values"]),
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
    config = validate({"runs": {"r": {"model": "m", "dataset": "d"}}, "datasets": {"d": {"kind": "synthetic"}}})
    assert config["datasets"]["d"]["splits"] == {"train": "mini_train", "val": "mini_val"}
    assert config["runs"]["r"]["schedule"]["batch_size"] == 1
    assert list(config["runs"]["r"]) == sorted(config["runs"]["r"])


def test_numbers_are_taken_as_numbers_whatever_form_they_have() -> None:
    config = copy.deepcopy(DEFAULT)
    config["runs"]["default"]["schedule"] |= {
        "epochs": "2",
        "batch_size": 2.0,
        "learning_rate": "1e-4",
        "do_eval": "false",
    }
    schedule = validate(config)["runs"]["default"]["schedule"]
    assert [schedule[key] for key in ("epochs", "batch_size", "learning_rate", "do_eval")] == [2, 2, 1e-4, False]
    assert [type(schedule[key]) for key in ("epochs", "batch_size")] == [int, int]


def test_runtime_keys_are_those_that_training_leaves_out_of_its_fingerprint(tmp_path: Path) -> None:
    from tests.helpers.fake_training import make_request

    config = validate(DEFAULT)
    schedule = config["runs"]["default"]["schedule"]
    assert set(schedule) - set(training_settings(config["runs"]["default"])) == set(RUNTIME_KEYS)
    other = {
        "log_interval": 3,
        "checkpoint_minutes": 1.0,
        "num_workers": 5,
        "device": "gpu",
        "share_gpu": True,
        "slow_factor": 2.0,
        "judge": "devkit",
    }
    assert set(other) | {"allow_slow_cpu"} == set(RUNTIME_KEYS)
    plain = make_request(tmp_path / "plain").fingerprint_fields()
    assert make_request(tmp_path / "other", **other).fingerprint_fields() == plain
    assert make_request(tmp_path / "shaped", clip_norm=1.0).fingerprint_fields() != plain


def test_a_new_key_with_a_default_changes_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    config = validate(DEFAULT)
    run, dataset = config["runs"]["default"], config["datasets"]["synthetic"]
    before = shaping("run", run), shaping("synthetic", dataset)
    newer = copy.deepcopy(SCHEMA)
    newer["$defs"]["schedule"]["properties"]["momentum"] = {"type": "number", "default": 0.9}
    newer["$defs"]["synthetic"]["properties"]["rain"] = {"type": "integer", "default": 0}
    monkeypatch.setattr("petrflow.config.runs.schema_of", lambda name: newer)
    config = validate(DEFAULT)
    run, dataset = config["runs"]["default"], config["datasets"]["synthetic"]
    assert run["schedule"]["momentum"] == 0.9 and dataset["rain"] == 0
    assert (shaping("run", run), shaping("synthetic", dataset)) == before
    run["schedule"] |= {"momentum": 0.5, "num_workers": 7}
    assert shaping("run", run)["schedule"] == before[0]["schedule"] | {"momentum": 0.5}


def test_what_shapes_a_result_does_not_depend_on_how_a_number_is_written() -> None:
    assert (
        shaping("schedule", {"batch_size": 4, "clip_norm": 35})
        == shaping("schedule", {"batch_size": 4.0})
        == {"batch_size": 4.0}
    )
    assert shaping("synthetic", {"kind": "synthetic", "splits": {"train": "mini_train"}}) == {"kind": "synthetic"}


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config" / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid_and_their_models_exist(path: Path) -> None:
    config = validate(load_yaml(path))
    for run in config["runs"].values():
        load_model(model_path(run["model"], [REPOSITORY / "config" / "models"]))


def test_a_model_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(PetrflowError, match="petrv2_tiny"):
        model_path("petrv2_tini", [REPOSITORY / "config" / "models"])


@pytest.mark.parametrize("name", ["config", "model"])
def test_every_key_has_a_description(name: str) -> None:
    def walk(entry: Any, path: str) -> None:
        if isinstance(entry, dict):
            for key, child in entry.get("properties", {}).items():
                assert "description" in child or "$ref" in child, f"{path}.{key}"
                walk(child, f"{path}.{key}")
            for key, child in entry.get("$defs", {}).items():
                walk(child, key)

    walk(schema_of(name), "")


def test_a_schema_with_an_unknown_keyword_or_a_reference_to_nowhere_is_refused() -> None:
    for name in ("config", "model"):
        assert load_yaml(REPOSITORY / "src" / "petrflow" / "config" / "schemas" / f"{name}.yaml") == schema_of(name)
    assert not list(schema_faults(SCHEMA)) and not list(schema_faults(schema_of("model")))
    # What YAML makes of a description with a comma and without quotes.
    assert "with `do_eval`" in next(
        schema_faults({"properties": {"a": {"description": "Epochs and", "with `do_eval`": None}}})
    )
    assert "nowhere" in next(schema_faults({"$defs": {}, "properties": {"a": {"$ref": "#/$defs/b"}}}))


def test_the_order_of_cameras_is_kept_and_shapes_a_data_set() -> None:
    there = {"kind": "xtreme1", "source": "x", "cameras": {"camera_image_1": "CAM_FRONT", "camera_image_0": "CAM_BACK"}}
    back = there | {"cameras": dict(reversed(there["cameras"].items()))}  # type: ignore[attr-defined]
    assert list(settings("xtreme1", there)["cameras"]) == ["camera_image_1", "camera_image_0"]
    assert shaping("xtreme1", there) != shaping("xtreme1", back)
    with pytest.raises(PetrflowError, match="cameras: gives CAM_FRONT to two image folders"):
        settings("xtreme1", there | {"cameras": {"a": "CAM_FRONT", "b": "CAM_FRONT"}})
