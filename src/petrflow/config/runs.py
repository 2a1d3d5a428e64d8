"""The configuration: data sets and runs, and what of them shapes a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from petrflow.config.reading import Document, KeyPath, merged, raise_all
from petrflow.config.schema import check, fill, object_schema, schema_of, section, settle
from petrflow.config.sentences import nearest
from petrflow.messages import _


def runtime_keys(name: str) -> tuple[str, ...]:
    """Keys of a section that say how it is carried out and not what comes of it (``runtime: true``
    in the schema).
    """
    schema = section(schema_of("config"), name)
    properties, _others = object_schema({}, schema, schema)
    return tuple(key for key, entry in properties.items() if entry.get("runtime"))


RUNTIME_KEYS = runtime_keys("schedule")
"""Keys of a schedule that say how it is carried out and not what comes of it (``runtime: true`` in
the schema): they retrain nothing.
"""


def load_config(files: Iterable[Path | str], overrides: Mapping[str, Any] | None = None) -> Document:
    """Read and check a configuration, with every mistake in it and with defaults filled in.

    Parameters
    ----------
    files : paths
        Later ones over earlier ones, key by key.
    overrides : mapping, optional
        As Snakemake reads ``--config``: every scalar inside a group is text.
    """
    schema = schema_of("config")
    document = merged(files, settle(overrides, schema, schema, from_text=True) if overrides else None)
    if not document.values and document.mistakes:
        return document
    filled = check(document, schema)
    _note_disagreements(document, filled)
    document.values = filled
    return document


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration and return a copy of it with every default filled in and every
    mapping's keys sorted.

    Raises
    ------
    PetrflowError
        One sentence for each mistake.
    """
    document = Document(dict(config))
    filled = check(document, schema_of("config"))
    _note_disagreements(document, filled)
    raise_all(document.mistakes)
    return filled


def settings(name: str, values: Mapping[str, Any], where: KeyPath = ()) -> dict[str, Any]:
    """One section's settings, checked and with defaults: ``synthetic``, ``nuscenes``, ``xtreme1``,
    ``schedule`` or ``demo``.

    Whoever takes settings calls this; of settings that the configuration's check has filled in,
    nothing changes.

    Raises
    ------
    PetrflowError
        One sentence for each mistake.
    """
    document = Document(dict(values))
    filled = check(document, section(schema_of("config"), name))
    if not document.mistakes:
        for path, says in _inside_dataset(filled):
            document.add(path, says)
    raise_all(document.mistakes)
    return filled


def training_settings(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's schedule that shapes its weights."""
    return {key: value for key, value in run["schedule"].items() if key not in RUNTIME_KEYS}


def shaping(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a section's settings shapes a result, for fingerprints.

    Runtime keys and values equal to the schema's default are left out, so that neither an edit of
    the former nor a new key with a default, in a later version, changes the fingerprint of what is
    there. Of ``number`` keys, whole numbers are written as floats.

    Parameters
    ----------
    name : str
        A section of the configuration's schema (``synthetic``, ``schedule``, ``run``, …), or
        ``model`` for a model file.
    values : mapping
        Checked settings, with or without defaults filled in.
    """
    schema = schema_of("model") if name == "model" else section(schema_of("config"), name)
    shaped: dict[str, Any] = _shaping(values, schema, schema)
    return shaped


def shaping_defaults(name: str) -> dict[str, Any]:
    """The defaults of a section that :func:`shaping` leaves out, in the form in which it would
    write them.
    """
    schema = section(schema_of("config"), name)
    properties, _others = object_schema({}, schema, schema)
    return {key: _shaping(child["default"], child, schema) for key, child in properties.items() if "default" in child}


def _shaping(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping) and schema.get("ordered"):
        return [[key, _shaping(child, {}, root)] for key, child in value.items()]
    if isinstance(value, Mapping):
        properties, others = object_schema(value, schema, root)
        kept = {}
        for key in sorted(value, key=str):
            child = properties.get(key, others)
            part = _shaping(value[key], child, root)
            if child.get("runtime") or ("default" in child and part == _shaping(child["default"], child, root)):
                continue
            kept[key] = part
        return kept
    if isinstance(value, list | tuple):
        return [_shaping(item, {}, root) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def of_kind(config: Mapping[str, Any], kind: str) -> list[str]:
    """Names of the data sets that come through one door."""
    return [name for name, dataset in config["datasets"].items() if dataset["kind"] == kind]


# ------------------------------------------------------------------------------------------------------------------ agreement


def _note_disagreements(document: Document, filled: Mapping[str, Any]) -> None:
    """Note what a schema cannot say; parts that are broken already are passed over."""
    broken = {mistake.path for mistake in document.mistakes}
    for group in ("datasets", "runs"):
        for path, says in _same_but_for_case(group, document.values.get(group)):
            document.add(path, says)
    for path, says in _disagreements(filled):
        if path not in broken:
            document.add(path, says)


def _disagreements(config: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    datasets, runs = (config[key] if isinstance(config.get(key), Mapping) else {} for key in ("datasets", "runs"))
    for name, dataset in datasets.items():
        if isinstance(dataset, Mapping):
            for path, says in _inside_dataset(dataset):
                yield ("datasets", name, *path), says
    yield from _unknown_datasets(("predict",), config.get("predict"), datasets)
    yield from _inside_notify(config.get("notify"))
    serve = config.get("serve")
    served = serve.get("dataset") if isinstance(serve, Mapping) else None
    if isinstance(served, str) and served not in datasets:
        yield ("serve", "dataset"), f"there is no data set {served!r}{nearest(served, map(str, datasets))}."
    elif isinstance(served, str) and isinstance(datasets[served], Mapping):
        kind = datasets[served].get("kind")
        if kind != "xtreme1":
            yield ("serve", "dataset"), f"{served!r} is of kind {kind}, and the service reads frames of Xtreme1's."
    for name, run in runs.items():
        if isinstance(run, Mapping):
            yield from _unknown_datasets(("runs", name, "predict"), run.get("predict"), datasets)
            for path, says in _inside_run(name, run, datasets, runs):
                yield ("runs", name, *path), says


def _inside_notify(notify: Any) -> Iterator[tuple[KeyPath, str]]:
    if not isinstance(notify, Mapping):
        return
    links = [key for key in ("url", "url_env") if notify.get(key)]
    if notify.get("command") and (notify.get("kind") or links):
        yield ("notify", "command"), _("stands beside a webhook; keep the command, or kind and its link.")
    elif links and not notify.get("kind"):
        yield ("notify", links[0]), _("needs kind beside it: wecom, dingtalk, feishu, slack or json.")
    elif notify.get("kind") and len(links) != 1:
        yield ("notify", "kind"), _("needs one link: url, or url_env with the name of a variable that holds it.")


def _unknown_datasets(path: KeyPath, listed: Any, datasets: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    for place, dataset in enumerate(listed if isinstance(listed, list) and datasets else ()):
        if isinstance(dataset, str) and dataset not in datasets:
            yield (
                (*path, place),
                _(
                    "there is no data set {dataset!r}{hint}.",
                    dataset=dataset,
                    hint=nearest(dataset, map(str, datasets)),
                ),
            )


def predicted(config: Mapping[str, Any], run: str) -> list[str]:
    """Names of the data sets that a run of a checked configuration predicts."""
    everywhere = config.get("predict")
    return list(config["runs"][run]["predict"] if everywhere is None else everywhere)


def _same_but_for_case(group: str, names: Any) -> Iterator[tuple[KeyPath, str]]:
    seen: dict[str, str] = {}
    for name in names if isinstance(names, Mapping) else ():
        twin = seen.setdefault(name.casefold(), name)
        if twin != name:
            yield (
                (group, name),
                _(
                    "differs from {twin!r} by case only, and some disks make one folder of both; choose another name.",
                    twin=twin,
                ),
            )
        elif name.casefold() in ("report", "weights", "preflight") and name != name.casefold():
            yield (
                (group, name),
                _(
                    "the name {name!r} is taken by petrflow's own folders but for its case; choose another one.",
                    name=name,
                ),
            )


def _inside_dataset(dataset: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    cameras = dataset.get("cameras")
    if isinstance(cameras, Mapping):
        twice = sorted({str(channel) for channel in cameras.values() if list(cameras.values()).count(channel) > 1})
        if twice:
            yield (
                ("cameras",),
                _("gives {channel} to two image folders; give each a channel of its own.", channel=twice[0]),
            )
    splits = dataset.get("splits")
    if dataset.get("kind") == "synthetic" and isinstance(splits, Mapping) and "ratio" in splits:
        splits = {
            key: value for key, value in splits.items() if value != with_defaults("synthetic", {})["splits"].get(key)
        }
    if isinstance(splits, Mapping) and splits.keys() & {"ratio", "by"} and splits.keys() & {"train", "val"}:
        yield ("splits",), _("says both which scenes and what share; leave out train and val, or ratio, seed and by.")
    for part in ("train", "val"):
        listed = splits.get(part) if isinstance(splits, Mapping) else None
        if isinstance(listed, list) and len(set(map(str, listed))) < len(listed):
            yield ("splits", part), _("names a scene twice.")

    vehicle = dataset.get("vehicle")
    for key, value in vehicle.items() if isinstance(vehicle, Mapping) else ():
        if isinstance(value, list) and value != sorted(value):
            yield ("vehicle", key), _("is a pair with the smaller number first, not {value}.", value=value)


def _inside_run(
    name: str, run: Mapping[str, Any], datasets: Mapping[str, Any], runs: Mapping[str, Any]
) -> Iterator[tuple[KeyPath, str]]:
    dataset = run.get("dataset")
    if isinstance(dataset, str) and datasets and dataset not in datasets:
        yield (
            ("dataset",),
            _(
                "there is no data set {dataset!r}{hint}.",
                dataset=dataset,
                hint=nearest(dataset, map(str, datasets)),
            ),
        )
    expected = run.get("expect")
    for metric in ("mAP", "NDS"):
        figure = expected.get(metric) if isinstance(expected, Mapping) else None
        value = figure.get("value") if isinstance(figure, Mapping) else None
        if isinstance(value, int | float) and not 0 <= value <= 1:
            yield (
                ("expect", metric, "value"),
                _("is {value}, and {metric} is a share between 0 and 1.", value=value, metric=metric),
            )
    schedule = run.get("schedule")
    if isinstance(schedule, Mapping) and schedule.get("patience") and schedule.get("do_eval") is False:
        yield (
            ("schedule", "patience"),
            _("counts evaluations, and do_eval is false; set do_eval: true or leave patience out."),
        )
    other = weights_run(run.get("weights"))
    if other is None:
        return
    if other not in runs and not isinstance(run["weights"], Mapping):
        return  # of a run that another configuration names
    if other not in runs:
        yield (
            ("weights", "run"),
            _(
                "there is no run {other!r}{hint}.",
                other=other,
                hint=nearest(other, (entry for entry in runs if entry != name)),
            ),
        )
        return
    chain = [name]
    while other is not None and other not in chain:
        chain.append(other)
        following = runs.get(other)
        other = weights_run(following.get("weights")) if isinstance(following, Mapping) else None
    if other == name:
        way = " -> ".join([*chain, name])
        yield (
            ("weights",),
            _(
                "are this run's own output ({way}): no run can start from what comes of it; name other weights.",
                way=way,
            ),
        )


def weights_run(weights: Any) -> str | None:
    """The run whose best model ``weights`` names, as ``{run: NAME}`` or by its path under
    ``results/``; None for other weights.
    """
    if isinstance(weights, Mapping) and isinstance(weights.get("run"), str):
        return str(weights["run"])
    if not isinstance(weights, str):
        return None
    try:
        inside = Path(weights).resolve().relative_to(Path("results").resolve())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a link to itself
        return None
    made = inside.parts[1:2] in (("train",), ("state",))
    return inside.parts[0] if made else None


def with_defaults(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A section's settings with defaults, unchecked."""
    schema = section(schema_of("config"), name)
    filled: dict[str, Any] = fill(values, schema, schema)
    return filled
