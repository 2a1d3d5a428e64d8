"""Which stages there are, what shapes each of them, and the fingerprint by which a finished one is
known.

A fingerprint is a function of the configuration and of the files that users give: model files,
local weights, the marks of data sources. Nothing that a stage makes goes into it, so that a job on
another machine, which reads the Snakefile anew in the middle of a run, finds the same names.
Snakemake sees nothing but receipts (:mod:`petrflow.files.receipts`): a receipt that is wanted and
does not exist is a stage to run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from source_marks import source_mark, weights_source
from stage import DOORS, RUN_STAGES, Stage, make_stage

from petrflow.config import load_yaml, predicted, runtime_keys, training_settings
from petrflow.config import shaping as what_shapes
from petrflow.errors import PetrflowError
from petrflow.fetch.links import fetched_weights, public, weights_key
from petrflow.files.receipts import Contents, made_from
from petrflow.nuscenes.names import CATEGORY_OF_DETECTION

SPLITS = ("train", "val")


class Plan:
    """All stages of a configuration.

    Parameters
    ----------
    config : mapping
        The checked configuration, defaults filled in.
    models : mapping of run to Path
        Each run's model file.
    contents : Contents
        Knows the contents of users' files.
    """

    def __init__(self, config: Mapping[str, Any], models: Mapping[str, Path], contents: Contents) -> None:
        self.config = config
        self._models = models
        self._contents = contents
        self._stages: dict[tuple[str, str], Stage] = {}
        self._under_way: list[str] = []
        self.runs: set[Stage] | None = None
        """The stages that are about to run; None where that is not known, in a job."""

    def save_contents(self) -> None:
        """Keep what was learnt of users' files, so that the next plan hashes none of them again."""
        self._contents.save()

    # ------------------------------------------------------------------------------------------------------------ stages

    def stage(self, name: str, subject: str) -> Stage:
        """A stage by its name and its run or data set."""
        key = (name, subject)
        if key not in self._stages:
            self._stages[key] = self._make(name, subject)
        return self._stages[key]

    def root(self, dataset: str) -> Stage:
        """The door's stage of a data set."""
        return self.stage(self.config["datasets"][dataset]["kind"], dataset)

    def of_run(self, run: str) -> list[Stage]:
        """All stages of a run, in the order in which data flows."""
        names = [*RUN_STAGES, *(f"predict-{dataset}" for dataset in predicted(self.config, run))]
        return [self.stage(name, run) for name in names]

    def prelabelled(self, run: str) -> list[str]:
        """Predicted data sets of a run whose boxes can go back into the tool that they were labelled with."""
        kinds = {name: dataset["kind"] for name, dataset in self.config["datasets"].items()}
        return [dataset for dataset in predicted(self.config, run) if kinds[dataset] == "xtreme1"]

    def of_all_runs(self) -> list[Stage]:
        """All stages of all runs."""
        return [stage for run in self.config["runs"] for stage in self.of_run(run)]

    def all(self) -> Iterator[Stage]:
        """Every stage that the configuration knows, also those that only a target of its own asks
        for.
        """
        used = {run["dataset"] for run in self.config["runs"].values()}
        for dataset in self.config["datasets"]:
            yield from (self.root(dataset), self.stage("annotate", dataset), self.stage("doctor", dataset))
            if dataset in used:
                yield from (self.stage(f"classic-{split}", dataset) for split in SPLITS)
        yield from self.fetched().values()
        yield from self.of_all_runs()
        for run in self.config["runs"]:
            yield from (self.stage(f"prelabel-{dataset}", run) for dataset in self.prelabelled(run))
        yield self.stage("report", "report")

    def fetched(self) -> dict[str, Stage]:
        """Stages that fetch weights, by key."""
        sources = [run["weights"] for run in self.config["runs"].values()]
        keys = {weights_key(source) for source in sources if isinstance(source, Mapping) and "url" in source}
        return {key: self.stage("weights", key) for key in sorted(keys)}

    def weights_file(self, run: str) -> Path | None:
        """Where a run's weights are, or will be."""
        source = self.config["runs"][run]["weights"]
        if source is None:
            return None
        if isinstance(source, Mapping):
            if "run" in source:
                return Path("results") / source["run"] / "train" / "best_model" / "model.pdparams"
            return fetched_weights(source)
        return Path(source).expanduser()

    def inputs(self, name: str, subject: str) -> list[str]:
        """Receipts that a stage waits for: those of the stages before it, where it runs at all."""
        stage = self.stage(name, subject)
        return [str(before.receipt) for before in stage.after] if self.runs is None or stage in self.runs else []

    def arguments(self, name: str, subject: str) -> dict[str, Any]:
        """What the function of :mod:`petrflow.stages` is called with. What may hold a personal URL
        is not here: params are recorded.
        """
        out_dir = self.stage(name, subject).folder
        if name == "annotate":
            return {"root": Path("data") / subject, "about": Path("results") / subject / "root", "out_dir": out_dir}
        if name.startswith("classic-"):
            split = name.removeprefix("classic-")
            path = out_dir / f"petr_nuscenes_annotation_{split}.pkl"
            return {"root": Path("data") / subject, "store_path": _store(subject, split), "path": path}
        if name == "doctor":
            stores = {split: _store(subject, split) for split in SPLITS}
            given = {"root": Path("data") / subject, "stores": stores, "out_dir": out_dir}
            return {**given, "class_names": self.class_names(subject)}
        if self.stage(name, subject).of_run:
            return self._run_arguments(name, subject)
        given = {"about": Path("results") / subject / "root", "root": Path("data") / subject}
        return {**given, "class_names": self.class_names(subject)} if name == "xtreme1" else given

    def class_names(self, dataset: str) -> list[str]:
        """Classes of the models that are trained on a data set; empty where they are nuScenes' ten or no run uses it."""
        models = [self._models[name] for name, run in self.config["runs"].items() if run["dataset"] == dataset]
        files = [self._contents.take(path, "yaml", load_yaml) for path in models]
        names = list(dict.fromkeys(name for values in files for name in values["class_names"]))
        return [] if set(names) == set(CATEGORY_OF_DETECTION) else names

    def _run_arguments(self, name: str, run: str) -> dict[str, Any]:
        entry, folder = self.config["runs"][run], Path("results") / run
        if name.startswith("prelabel-"):
            dataset = name.removeprefix("prelabel-")
            return {
                "run": run,
                "predicted": folder / "predict" / dataset,
                "about": Path("results") / dataset / "root",
                "out_dir": folder / "prelabel" / dataset,
                "class_ids": self.config["datasets"][dataset]["class_ids"],
            }
        dataset = entry["dataset"]
        common = {"root": Path("data") / dataset, "out_dir": folder / name, "schedule": entry["schedule"]}
        if name == "train":
            return {
                **common,
                "run": run,
                "request_path": folder / "state" / "request.json",
                "state_dir": folder / "state",
                "model_config": self._models[run],
                "train_store": _store(dataset, "train"),
                "val_store": _store(dataset, "val"),
                "weights": self.weights_file(run),
                "partial_weights": entry["partial_weights"],
            }
        common |= {"model_file": self._models[run], "store_path": _store(dataset, "val")}
        if name == "baseline":
            given = {"weights": self.weights_file(run), "partial_weights": entry["partial_weights"]}
            return {**common, **given, "expect": entry["expect"]}
        if name == "export":
            best = folder / "train" / "best_model" / "model.pdparams"
            return {**common, "weights": best, "train_store": _store(dataset, "train"), "settings": entry["export"]}
        common |= {"min_score": entry["min_score"], "thresholds": folder / "train" / "thresholds.json"}
        if name == "demo":
            return {**common, "exported": folder / "export", "settings": entry["demo"]}
        predicts = name.removeprefix("predict-")
        return {
            **common,
            "root": Path("data") / predicts,
            "out_dir": folder / "predict" / predicts,
            "store_path": _store(predicts, "val"),
            "exported": folder / "export" if entry["predict_with"] == "exported" else None,
            "weights": folder / "train" / "best_model" / "model.pdparams",
            "scenes": entry["predict_scenes"],
            "tracks": entry["tracks"],
        }

    def notes(self) -> dict[str, list[str]]:
        """Sentences about the stages of each run whose results in place are not what the
        configuration asks for.
        """
        notes: dict[str, list[str]] = {}
        for run in self.config["runs"]:
            notes[run] = [
                f"{stage.name}: {_said_of(stage)}"
                for stage in self.of_run(run)
                if stage.fault() or not stage.receipt.exists()
            ]
        return notes

    # ------------------------------------------------------------------------------------------------------------ shaping

    def _make(self, name: str, subject: str) -> Stage:
        title = f"{name} {subject}"
        if title in self._under_way:
            circle = [step.split()[1] for step in [*self._under_way[self._under_way.index(title) :], title]]
            raise PetrflowError(
                f"runs.{subject}.weights: these runs wait for each other's weights ({' <- '.join(dict.fromkeys(circle))}): "
                "let one of them start from weights that no run of this configuration makes."
            )
        self._under_way.append(title)
        try:
            return self._shape(name, subject)
        finally:
            self._under_way.pop()

    def _shape(self, name: str, subject: str) -> Stage:
        results = Path("results") / subject
        if name in DOORS:
            return self._shape_root(name, subject)
        if name == "annotate":
            files = tuple(f"{split}.arrow" for split in SPLITS)
            return make_stage(name, subject, results / "annotations", files, after=[self.root(subject)])
        if name.startswith("classic-"):
            folder, split = results / "annotations", name.removeprefix("classic-")
            files = (f"petr_nuscenes_annotation_{split}.pkl",)
            return make_stage(name, subject, folder, files, after=self._data(subject), stamp=f"{name}-provenance.json")
        if name == "doctor":
            names = self.class_names(subject)
            settings = {"class_names": names} if names else {}
            return make_stage(name, subject, results / "doctor", ("doctor.json",), settings, after=self._data(subject))
        if name == "weights":
            settings = {"source": public(weights_source(self.config, subject))}
            return make_stage(name, subject, Path("data/weights") / subject, ("model.pdparams",), settings)
        if name == "report":
            return make_stage(name, subject, results, ("index.html",), after=self.of_all_runs())
        return self._shape_run(name, subject)

    def _shape_run(self, name: str, run: str) -> Stage:
        entry = self.config["runs"][run]
        given = what_shapes("run", entry)
        files: tuple[str, ...]
        settings: dict[str, Any]
        data = self._data(entry["dataset"])
        folder = Path("results") / run / name
        if name == "export":
            graphs = ("model", "features", "boxes")
            files = tuple(f"{graph}.{kind}" for graph in graphs for kind in ("json", "pdiparams"))
            files += ("deploy.json", "README.md", "runner.py", "parity.json")
            after = [*data, self.stage("train", run)]
            return make_stage(name, run, folder, files, entry["export"], given.get("export", {}), after)
        if name == "demo":
            files = ("demo.mp4", "detections.json", "frames")
            after = [*data, self.stage("export", run)]
            settings, shaping = dict(entry["demo"]), dict(given.get("demo", {}))
            if entry["min_score"] is not None:
                settings["min_score"], shaping["min_score"] = entry["min_score"], given["min_score"]
            return make_stage(name, run, folder, files, settings, shaping, after)
        if name.startswith("predict-"):
            return self._shape_predict(name, run)
        if name.startswith("prelabel-"):
            dataset = name.removeprefix("prelabel-")
            settings = {"class_ids": self.config["datasets"][dataset]["class_ids"]}
            after = [self.root(dataset), self.stage(f"predict-{dataset}", run)]
            folder = Path("results") / run / "prelabel" / dataset
            return make_stage(name, run, folder, ("prelabels.zip", "summary.json"), settings, settings, after)

        settings = {"model file": self._contents.take(self._models[run], "yaml", load_yaml)}
        weights, before = self._weights(run)
        settings |= weights
        shaping = {**settings, "model file": what_shapes("model", settings["model file"])}
        if name == "baseline":
            settings["expect"] = entry["expect"]
            shaping["expect"] = given.get("expect", {})
            if entry["weights"] is None:  # else the seed draws nothing
                settings["seed"] = entry["schedule"]["seed"]
                shaping |= {key: value for key, value in given.get("schedule", {}).items() if key == "seed"}
            files = ("metrics.json", "results_nusc.json", "table.txt")
            return make_stage(name, run, folder, files, settings, shaping, [*data, *before])
        settings |= training_settings(entry)
        shaping["schedule"] = given.get("schedule", {})
        files = ("best_model/model.pdparams", "last_model/model.pdparams", "history.csv", "metrics.json", "visualdl")
        return make_stage(name, run, folder, files, settings, shaping, [*data, *before])

    def _shape_predict(self, name: str, run: str) -> Stage:
        entry, dataset = self.config["runs"][run], name.removeprefix("predict-")
        keys = ("predict_with", "predict_scenes", "tracks", "min_score")
        given = what_shapes("run", entry)
        shaping = {key: given[key] for key in keys if key in given}
        after = [*self._data(dataset), self.stage("export" if entry["predict_with"] == "exported" else "train", run)]
        files = ("detections.parquet", "results_nusc.json", "counts.csv", "viewer/index.html")
        folder = Path("results") / run / "predict" / dataset
        return make_stage(name, run, folder, files, {key: entry[key] for key in keys}, shaping, after)

    def _data(self, dataset: str) -> list[Stage]:
        """Stages whose results everything reads that reads annotations: images and clouds are in
        the root.
        """
        return [self.root(dataset), self.stage("annotate", dataset)]

    def _weights(self, run: str) -> tuple[dict[str, Any], list[Stage]]:
        """What a run's weights add to what shapes it, and the stage that makes or fetches them."""
        source = self.config["runs"][run]["weights"]
        if source is None:
            return {}, []
        if isinstance(source, Mapping) and "url" in source:
            return {}, [self.stage("weights", weights_key(source))]
        path = self.weights_file(run)
        assert path is not None
        made = self._made_by(path)
        if made is None and isinstance(source, Mapping):
            raise PetrflowError(
                f"runs.{run}.weights.run: there is no run {source['run']!r}; known are {', '.join(self.config['runs'])}."
            )
        if made is None:
            return {"weights": self._content(run, path)}, []
        other, which = made
        if other == run:
            raise PetrflowError(
                f"runs.{run}.weights: a run cannot start from its own result ({path}): give other weights, or copy the "
                "file elsewhere and name the copy."
            )
        return {"weights": f"{which} of {other}"}, [self.stage("train", other)]

    def _content(self, run: str, path: Path) -> str:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise PetrflowError(f"runs.{run}.weights: {path} {kind}, seen from {Path.cwd()}: name a file of weights.")
        return self._contents.sha256(path)

    def _made_by(self, path: Path) -> tuple[str, str] | None:
        """The run that makes a file of weights, and which of its models it is; None for a file that
        users give.
        """
        parts = Path(os.path.relpath(path)).parts
        if len(parts) == 5 and parts[0] == "results" and parts[2] == "train" and parts[1] in self.config["runs"]:
            return parts[1], parts[3]
        return None

    def _shape_root(self, kind: str, dataset: str) -> Stage:
        entry = public(self.config["datasets"][dataset])
        passed_over = (*runtime_keys(kind), "kind")
        settings, shaping = (
            {key: value for key, value in values.items() if key not in passed_over}
            for values in (entry, what_shapes(kind, entry))
        )
        mark = source_mark(self.config["datasets"][dataset], dataset, self._contents)
        if mark is not None:
            settings["content of source"] = shaping["content of source"] = mark
        root = Path("data") / dataset
        stamp = Path("results") / dataset / "root" / "provenance.json"
        return make_stage(kind, dataset, root, (str(entry["version"]),), settings, shaping, stamp=stamp)


def _store(dataset: str, split: str) -> Path:
    return Path("results") / dataset / "annotations" / f"{split}.arrow"


def _said_of(stage: Stage) -> str:
    reason = stage.reason()
    if made_from(stage.stamp) is None:
        return reason
    return f"what is shown was made from other settings than the configuration's ({reason})"
