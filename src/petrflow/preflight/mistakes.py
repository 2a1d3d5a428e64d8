"""One pass over everything a person wrote, before anything is deleted, fetched or trained: all
mistakes together.

The configuration and the model files are checked against their schemas; what they name (sources,
splits, scenes, weights) is looked for; weights on this disk are held against the model by names and
shapes. Nothing is written, and it takes a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from petrflow.config import (
    Document,
    KeyPath,
    Mistake,
    load_config,
    model_path,
    nearest,
    nearest_file,
    raise_all,
    read_model,
    weights_run,
    with_defaults,
    with_model_defaults,
)
from petrflow.config.network import entries
from petrflow.errors import PetrflowError
from petrflow.fetch.links import fetched_weights, link_fault, public, scheme_of
from petrflow.messages import _
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION
from petrflow.nuscenes.synonyms import labels_of
from petrflow.sources.needs import KINDS, Knowledge, look
from petrflow.sources.xtreme1.classes import is_category
from petrflow.weights.fit import fit, misfit
from petrflow.weights.pdparams import names_and_shapes

WEIGHTS_ENDINGS = (".pdparams", ".safetensors")


def read_all(
    files: Iterable[Path | str],
    overrides: Mapping[str, Any] | None = None,
    models: Iterable[Path] = (Path("config/models"),),
) -> Document:
    """Read a configuration and look for mistakes in it and in all it names.

    Parameters
    ----------
    files, overrides
        As :func:`petrflow.config.load_config` takes them.
    models : folders
        Where models are looked up by name.

    Returns
    -------
    Document
        Its ``values`` are checked and complete when it has no mistakes.
    """
    document = load_config(files, overrides)
    _Pass(document, list(models)).run()
    document.mistakes = list(dict.fromkeys(document.mistakes))
    return document


class _Pass:
    """Adds to a document the mistakes that its files on this disk have.

    Of an entry in which the schema found mistakes, the keys that are right are looked at: the
    others stand at their defaults, and nothing is said of them a second time.
    """

    def __init__(self, document: Document, folders: list[Path]) -> None:
        self.document = document
        self.folders = folders
        self.broken = {mistake.path[:3] for mistake in document.mistakes}
        self.known: dict[str, Knowledge] = {}
        self.models: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        datasets = {name: entry for name, entry in self._group("datasets") if entry.get("kind") in KINDS}
        runs = dict(self._group("runs"))
        for name, dataset in datasets.items():
            if self._is_sound("datasets", name, "kind") and ("source" in dataset or dataset["kind"] == "synthetic"):
                self._source(name, dataset)
        whole = {name: with_defaults("run", run) for name, run in runs.items()}
        for name, run in whole.items():
            self._model(name, run)
        for name, run in whole.items():
            self._weights(name, run)
            self._data(name, run)
            self._min_score(name, run)
        for name, dataset in datasets.items():
            self._class_map(name, dataset, [run for run, entry in whole.items() if entry.get("dataset") == name])

    def _group(self, group: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Entries of a group, without the keys that the schema refuses."""
        entries_of = self.document.values.get(group)
        for name, entry in entries_of.items() if isinstance(entries_of, Mapping) else ():
            if isinstance(entry, Mapping):
                yield name, {key: value for key, value in entry.items() if self._is_sound(group, name, key)}

    def _is_sound(self, *path: str | int) -> bool:
        return path not in self.broken

    def _add(self, path: KeyPath, says: str) -> None:
        if self._is_sound(*path[:3]):
            self.document.add(path, says)

    def _source(self, name: str, dataset: dict[str, Any]) -> None:
        try:
            self.known[name] = look(with_defaults(dataset["kind"], dataset), Path("data") / name)
        except OSError as error:  # a name too long, a folder that may not be read
            self._add(
                ("datasets", name, "source"),
                _(
                    "{filename} cannot be read: {strerror}.",
                    filename=shortened(error.filename),
                    strerror=error.strerror,
                ),
            )
            return
        for path, says in self.known[name].mistakes:
            self._add(("datasets", name, *path), says)

    # -- models

    def _model(self, name: str, run: Mapping[str, Any]) -> None:
        if "model" not in run:
            return
        try:
            path = model_path(run["model"], self.folders)
        except PetrflowError as error:
            self._add(("runs", name, "model"), str(error))
            return
        model = read_model(path)
        self.document.mistakes += model.mistakes
        if not model.mistakes:
            self.models[name] = model.values

    # -- weights

    def _weights(self, name: str, run: Mapping[str, Any]) -> None:
        weights, here = run["weights"], ("runs", name, "weights")
        other = weights_run(weights)
        if weights is None or not self._is_sound(*here):
            return
        if other in self.document.values["runs"]:
            if name in self.models and other in self.models:
                self._compare(
                    here,
                    run,
                    entries(with_model_defaults(self.models[str(other)])),
                    name,
                    _("the model of run {other!r}", other=other),
                )
            return
        if isinstance(weights, Mapping):
            self._fetched(here, name, run)
        elif scheme_of(weights):
            self._add(here, _("is a link: write {{url: {link}}}.", link=weights.partition("?")[0]))
        else:
            try:
                self._file(here, name, run, Path(weights))
            except OSError as error:
                self._add(
                    here,
                    _(
                        "{filename} cannot be read: {strerror}.",
                        filename=shortened(error.filename),
                        strerror=error.strerror,
                    ),
                )

    def _fetched(self, here: KeyPath, name: str, run: Mapping[str, Any]) -> None:
        """Weights that are fetched: a ``file:`` link must lead somewhere; what has been fetched is
        looked at.
        """
        urls = run["weights"].get("url", [])
        links = [urls] if isinstance(urls, str) else urls
        for link in links:
            if says := link_fault(link):
                self._add((*here, "url"), says)
        local = [Path(link.removeprefix("file://")) for link in links if scheme_of(link) == "file"]
        if local and len(local) == len(links) and not any(path.is_file() for path in local):
            self._add(
                (*here, "url"),
                _("{link} leads to no file{hint}.", link=links[0], hint=nearest_file(local[0])),
            )
        path = fetched_weights(run["weights"])
        if path.is_file():
            self._file(here, name, run, path)

    def _file(self, here: KeyPath, name: str, run: Mapping[str, Any], path: Path) -> None:
        if path.is_dir():
            inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in WEIGHTS_ENDINGS)
            hint = (
                _("; name the file in it, {path}", path=path / inside[0]) if inside else _(", which holds no weights")
            )
            self._add(here, _("{path} is a folder{hint}.", path=path, hint=hint))
            return
        if not path.exists():
            self.document.add(
                here,
                _(
                    "{path} does not exist{hint}. Correct the path, or leave weights null.",
                    path=path,
                    hint=nearest_file(path),
                ),
            )
            return
        if not path.is_file():
            self._add(here, _("{path} is a pipe or a device; name a weights file.", path=path))
            return
        if name not in self.models:
            return
        try:
            given = names_and_shapes(path)
        except (PetrflowError, OSError) as error:
            self._add(here, str(error))
            return
        self._compare(here, run, given, name, str(path))

    def _compare(
        self, here: KeyPath, run: Mapping[str, Any], given: Mapping[str, tuple[int, ...]], name: str, where: str
    ) -> None:
        if run["partial_weights"]:
            return
        model = with_model_defaults(self.models[name])
        network = entries(model)
        why = misfit(fit(network, given, model["fresh"]), network, given)
        if why is not None:
            self._add(here, _("{where}: these weights {why}", where=where, why=why))

    # -- classes

    def _min_score(self, name: str, run: Mapping[str, Any]) -> None:
        """Hold the classes that ``min_score`` names against the model's."""
        if name not in self.models or not isinstance(run["min_score"], Mapping):
            return
        known = self.models[name]["class_names"]
        for given in run["min_score"]:
            if given not in known:
                self._add(
                    ("runs", name, "min_score", given), f"the model knows no class {given!r}{nearest(given, known)}."
                )

    # -- data

    def _class_map(self, dataset: str, entry: Mapping[str, Any], runs: list[str]) -> None:
        """Targets of a ``class_map`` are nuScenes' or classes of a model that is trained on the data."""
        if not self._is_sound("datasets", dataset, "class_map") or any(run not in self.models for run in runs):
            return
        models = (self.models[run]["class_names"] for run in runs)
        known = list(dict.fromkeys([*CATEGORY_OF_DETECTION, *(name for names in models for name in names)]))
        for name, target in (entry.get("class_map") or {}).items():
            if runs and target is not None and not is_category(target) and labels_of([target], known) == [-1]:
                self._add(
                    ("datasets", dataset, "class_map", name),
                    _(
                        "sends {name!r} to {target!r}, which is no class of a model that is trained on this data{hint}. Correct it, add it to class_names of the model file, or write null.",
                        name=name,
                        target=target,
                        hint=nearest(str(target), known),
                    ),
                )

    def _data(self, name: str, run: Mapping[str, Any]) -> None:
        """Hold what a run asks of its data set against what is known of it."""
        entry = dict(self._group("datasets")).get(str(run.get("dataset")), {})
        if entry.get("version") == "v1.0-test":
            self._add(
                ("runs", name, "dataset"),
                _(
                    "{dataset!r} is nuScenes' test split, which has no labels to train on: name it under predict.",
                    dataset=run["dataset"],
                ),
            )
        known = self.known.get(str(run.get("dataset")))
        if known is None or known.scenes is None or known.samples is None:
            return
        scene = run["demo"]["scene"]
        if scene is not None and scene not in known.scenes["val"]:
            where = _("is a training scene") if scene in known.scenes["train"] else _("is none of the data set's")
            self._add(("runs", name, "demo", "scene"), f"{scene!r} {where}{nearest(scene, known.scenes['val'])}.")
        schedule = run["schedule"]
        whole = schedule["batch_size"] * schedule["devices"]
        samples = known.samples["train"]
        if samples and whole > samples:
            each = _(" on each of {devices} devices", devices=schedule["devices"]) if schedule["devices"] > 1 else ""
            self._add(
                ("runs", name, "schedule", "batch_size"),
                _(
                    "is {batch_size}{each}, and the training split of {dataset!r} has {samples} samples; use at most {most}.",
                    batch_size=schedule["batch_size"],
                    each=each,
                    dataset=run["dataset"],
                    samples=samples,
                    most=max(1, samples // schedule["devices"]),
                ),
            )


def shortened(path: Any) -> str:
    """A path for a sentence: its beginning where it is long."""
    text = str(path)
    return text if len(text) <= 120 else f"{text[:117]}…"


def require_fit(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Any], models: Iterable[Path] = (Path("config/models"),)
) -> None:
    """Raise when weights that were just fetched do not belong to the models of the runs that name
    them.

    Parameters
    ----------
    path : Path
        The weights file.
    config : mapping
        The checked configuration.
    weights : mapping
        The runs' ``weights``, by which they are found.

    Raises
    ------
    PetrflowError
        One sentence for each run that they do not fit.
    """
    document = Document({"runs": {}})
    check = _Pass(document, list(models))
    for name, run in config["runs"].items():
        if public(run["weights"]) == public(weights):
            check._model(name, run)
            check._file(("runs", name, "weights"), name, run, path)
    raise_all(document.mistakes)


def report(mistakes: Iterable[Mistake]) -> str:
    """All mistakes, one a line, under one heading."""
    lines = [str(mistake) for mistake in mistakes]
    heading = _("There is a mistake") if len(lines) == 1 else _("There are {count} mistakes", count=len(lines))
    return "\n".join([_("{heading} in what was asked for; nothing was started.", heading=heading), *lines])
