"""The configuration: data sets and runs, checked against the schema, with defaults filled in.

Every mistake becomes one sentence with the path of the key and the nearest right name. What shapes a result is separated here from
what only says how to compute it, so that a stage is made anew exactly when it must be.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from petrflow.errors import PetrflowError

RUNTIME_KEYS = (
    "num_workers",
    "checkpoint_minutes",
    "log_interval",
    "device",
    "share_gpu",
    "slow_factor",
    "allow_slow_cpu",
    "judge",
)
"""Keys of a schedule that say how it is carried out and not what comes of it: changing these retrains nothing."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PetrflowError(f"Cannot read {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise PetrflowError(f"{path} is not valid YAML{where}: {getattr(error, 'problem', error)}.") from error
    if not isinstance(content, dict):
        raise PetrflowError(f"{path} must hold keys and values at its top level.")
    return content


def validate(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration and return a copy of it with every default filled in and every mapping's keys sorted.

    Parameters
    ----------
    config : mapping
        As read from YAML.
    schema : mapping
        The JSON schema of ``workflow/schemas/config.schema.yaml``.

    Raises
    ------
    PetrflowError
        One sentence for each mistake.
    """
    complaints = [_sentence(error) for error in sorted(_leaf_errors(config, schema), key=_order)]
    if not complaints:
        complaints = list(_dangling_references(config))
    if complaints:
        raise PetrflowError("\n".join(dict.fromkeys(complaints)))
    filled: dict[str, Any] = _with_defaults(config, schema, schema)
    return filled


def training_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's schedule that shapes its weights."""
    return {key: value for key, value in run["schedule"].items() if key not in RUNTIME_KEYS}


def of_kind(config: Mapping[str, Any], kind: str) -> list[str]:
    """Names of the data sets that come through one door."""
    return [name for name, dataset in config["datasets"].items() if dataset["kind"] == kind]


def model_path(name: str, folders: Iterable[Path]) -> Path:
    """Where a run's model file is: a path as it stands, or a name looked up in folders.

    Raises
    ------
    PetrflowError
        With the nearest name when there is none.
    """
    if name.endswith((".yml", ".yaml")):
        if Path(name).is_file():
            return Path(name)
        raise PetrflowError(f"The model file {name} does not exist.")
    known: list[str] = []
    for folder in folders:
        if (folder / f"{name}.yml").is_file():
            return folder / f"{name}.yml"
        known += sorted(path.stem for path in folder.glob("*.yml"))
    raise PetrflowError(f"There is no model {name!r} in config/models/{_nearest(name, known)}.")


def _leaf_errors(config: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    validator = Draft202012Validator(dict(schema))
    for error in validator.iter_errors(config):
        yield _innermost(error)


def _innermost(error: ValidationError) -> ValidationError:
    """Of an error in a choice of forms, the one inside the form that was meant: the mistake deepest in the value."""
    if not error.context:
        return error
    deepest = max(error.context, key=lambda inner: len(inner.absolute_path))
    if len(deepest.absolute_path) > len(error.absolute_path) or deepest.validator == "additionalProperties":
        return _innermost(deepest)
    return error


def _order(error: ValidationError) -> tuple[str, str]:
    return _path(error.absolute_path), str(error.validator)


def _path(parts: Iterable[Any]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _sentence(error: ValidationError) -> str:
    """One sentence for one mistake: where it is, what is wrong, what was probably meant."""
    where = _path(error.absolute_path)
    at = f"{where}: " if where else ""
    rule, wanted, value = error.validator, error.validator_value, error.instance
    assert isinstance(error.schema, Mapping)
    if rule == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [key for key in value if key not in known]
        keys = ", ".join(_path([*error.absolute_path, key]) for key in unknown)
        return f"{keys}: unknown key{_nearest(str(unknown[0]), known)}."
    if rule == "required":
        missing = [key for key in wanted if key not in value]
        return f"{at or 'config: '}the key {missing[0]!r} is missing."
    if rule == "type":
        names = {"object": "a group of keys", "array": "a list", "string": "text", "null": "null"}
        names |= {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
        kinds = " or ".join(names[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
        return f"{at}must be {kinds}, not {value!r}{_number_hint(wanted, value)}."
    if rule == "enum":
        choices = [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in wanted]
        return f"{at}{value!r} is none of {', '.join(choices)}{_nearest(str(value), choices, listed=False)}."
    if rule == "oneOf":
        return f"{at}{value!r} has no form that is understood here. {error.schema.get('description', '')}".rstrip()
    if rule == "not":
        return f"{at}the name {value!r} is taken by petrflow's own folders; choose another one."
    if rule == "pattern":
        return f"{at}{value!r} does not match the form {wanted}; use letters, digits, '_', '-' and '.'."
    bounds = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    if rule in bounds:
        return f"{at}must be {bounds[rule]} {wanted}, not {value!r}."
    return f"{at}{error.message}."


def _number_hint(wanted: Any, value: Any) -> str:
    """YAML 1.1 reads 1e-4 as text; say so, since everyone writes it once."""
    kinds = [wanted] if isinstance(wanted, str) else list(wanted)
    if isinstance(value, str) and {"number", "integer"} & set(kinds):
        try:
            return f" (YAML reads it as text; write {float(value):.1e})" if float(value) else ""
        except ValueError:
            return ""
    return ""


def _nearest(name: str, known: Iterable[str], listed: bool = True) -> str:
    choices = sorted(set(known))
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}"
    return f"; known are {', '.join(choices)}" if listed and choices else ""


def _dangling_references(config: Mapping[str, Any]) -> Iterator[str]:
    """What a schema cannot say: a run must name a data set that is there."""
    datasets = list(config["datasets"])
    for name, run in config["runs"].items():
        if run["dataset"] not in datasets:
            yield f"runs.{name}.dataset: there is no data set {run['dataset']!r}{_nearest(run['dataset'], datasets)}."


def _with_defaults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A copy of `value` with the schema's defaults, keys sorted: the order in which people write keys shapes nothing."""
    if not isinstance(value, Mapping):
        return value
    properties, others = _object_schema(value, schema, root)
    filled = {key: child["default"] for key, child in properties.items() if "default" in child and key not in value}
    filled |= value
    return {key: _with_defaults(filled[key], properties.get(key, others), root) for key in sorted(filled, key=str)}


def without_defaults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A copy of ``value`` without what the schema would fill in: a key that a later version adds with a default changes nothing.

    Parameters
    ----------
    value : mapping
        A part of a checked configuration, defaults filled in or not.
    schema, root : mapping
        Schema of this part, and the whole schema that its references point into.
    """
    if not isinstance(value, Mapping):
        return value
    properties, others = _object_schema(value, schema, root)
    kept = {}
    for key in sorted(value, key=str):
        child = properties.get(key, others)
        entry = without_defaults(value[key], child, root)
        if "default" not in child or entry != child["default"]:
            kept[key] = entry
    return kept


def _object_schema(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Schemas of a mapping's named keys and of its other keys, with references and the choice by `kind` resolved."""
    if "$ref" in schema:
        target = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
        return _object_schema(value, target, root)
    properties = dict(schema.get("properties", {}))
    for branch in schema.get("allOf", []):
        condition = branch["if"]["properties"]
        if all(value.get(key) == rule["const"] for key, rule in condition.items()):
            properties |= _object_schema(value, branch["then"], root)[0]
    others = schema.get("additionalProperties", {})
    return properties, others if isinstance(others, Mapping) else {}


@cache
def load_schema(path: Path) -> dict[str, Any]:
    """Read a schema, once a process."""
    return load_yaml(path)
