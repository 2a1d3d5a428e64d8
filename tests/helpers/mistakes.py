"""Every kind of mistake that can be known before the first job: how to make it, and what must be said of it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from petrflow.nuscenes.names import TABLE_NAMES

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "config" / "models" / "petrv2_tiny.yml"
SHIPPED = "resources/weights/petrv2_tiny/model.safetensors"

BASE: dict[str, Any] = {
    "datasets": {
        "streets": {"kind": "synthetic", "scenes": 4, "keyframes": 3},
        "own": {
            "kind": "nuscenes", "version": "v1.0-mini", "source": "own_root",
            "splits": {"train": ["scene-0061", "scene-0553"], "val": ["scene-0103"]},
        },
        "lot": {"kind": "xtreme1", "source": "export"},
    },
    "runs": {
        "first": {"dataset": "streets", "model": "petrv2_tiny", "weights": SHIPPED, "schedule": {"epochs": 1, "batch_size": 2}},
        "second": {"dataset": "own", "model": "petrv2_tiny", "weights": {"run": "first"}},
    },
}  # fmt: skip

Change = Callable[[Path, dict[str, Any]], Any]


@dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes
    ----------
    name : what it is
    says : parts of what must be said, all of them
    change : makes it, in a folder and in the configuration that will be written there; may return the text to write in its place
    arguments : of the command line; a case with some is tried there only
    """

    name: str
    says: tuple[str, ...]
    change: Change = lambda folder, config: None
    arguments: tuple[str, ...] = ()


def put(*keys: Any, value: Any) -> Change:
    """Set one key of the configuration."""

    def change(_: Path, config: dict[str, Any]) -> None:
        entry: Any = config
        for key in keys[:-1]:
            entry = entry.setdefault(key, {}) if isinstance(entry, dict) else entry[key]
        entry[keys[-1]] = value

    return change


def text(*pairs: tuple[str, str]) -> Change:
    """Replace text in the configuration's file."""

    def change(_: Path, config: dict[str, Any]) -> str:
        written = yaml.safe_dump(config, sort_keys=False)
        for old, new in pairs:
            assert old in written, written
            written = written.replace(old, new, 1)
        return written

    return change


def raw(content: bytes) -> Change:
    """Write other bytes in place of the configuration."""
    return lambda folder, config: content


def model(*keys: Any, value: Any) -> Change:
    """Give the first run a model file with one key of another value."""

    def change(folder: Path, config: dict[str, Any]) -> None:
        values = yaml.safe_load(MODEL.read_text())
        put(*keys, value=value)(folder, values)
        (folder / "own.yml").write_text(yaml.safe_dump(values))
        config["runs"]["first"]["model"] = "own.yml"

    return change


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _damaged(folder: Path, config: dict[str, Any]) -> None:
    whole = (REPOSITORY / SHIPPED).read_bytes()
    _write(folder / "w.safetensors", whole[: len(whole) // 2])
    config["runs"]["first"]["weights"] = "w.safetensors"


def _other_network(folder: Path, config: dict[str, Any]) -> None:
    from petrflow.weights.pdparams import save_pdparams

    save_pdparams(folder / "w.pdparams", {f"layer.{number}": np.zeros(3, "float32") for number in range(400)})
    config["runs"]["first"]["weights"] = "w.pdparams"


def _finished(folder: Path, config: dict[str, Any]) -> None:
    """A run that was finished before its weights went away."""
    _write(folder / "results" / "first" / "train" / "best_model" / "model.pdparams", b"x")
    _write(folder / "results" / "first" / "baseline" / "metrics.json", b"{}")
    config["runs"]["first"]["weights"] = "gone.pdparams"


def _circle(folder: Path, config: dict[str, Any]) -> None:
    config["runs"]["first"]["weights"] = {"run": "second"}


def _circle_by_path(folder: Path, config: dict[str, Any]) -> None:
    config["runs"]["first"]["weights"] = "results/../results/second/train/best_model/model.pdparams"


def _home(folder: Path, config: dict[str, Any]) -> None:
    config["runs"]["first"]["weights"] = "~/no-such-folder-of-petrflow/w.pdparams"


def _web_page(folder: Path, config: dict[str, Any]) -> None:
    _write(folder / "w.pdparams", b"<html>log in</html>")
    config["runs"]["first"]["weights"] = "w.pdparams"


def _unknown_class(folder: Path, config: dict[str, Any]) -> None:
    config["runs"]["first"]["dataset"] = "lot"
    config["datasets"]["lot"]["class_map"] = {"Auto": "automobil", "Van": "car"}


def _published_model(folder: Path, config: dict[str, Any]) -> None:
    config["runs"]["second"]["model"] = "petrv2_vovnet_gridmask_p4_800x320"


def _no_tables(folder: Path, config: dict[str, Any]) -> None:
    (folder / "own_root" / "v1.0-mini" / "sample.json").unlink()


def _link(target: str) -> Change:
    def change(folder: Path, config: dict[str, Any]) -> None:
        (folder / "link.pdparams").unlink(missing_ok=True)
        (folder / "link.pdparams").symlink_to(target)
        config["runs"]["first"]["weights"] = "link.pdparams"

    return change


def _pipe(folder: Path, config: dict[str, Any]) -> None:
    os.mkfifo(folder / "w.pdparams")
    config["runs"]["first"]["weights"] = "w.pdparams"


def _weights(name: str, content: bytes) -> Change:
    def change(folder: Path, config: dict[str, Any]) -> None:
        _write(folder / name, content)
        config["runs"]["first"]["weights"] = name

    return change


FIRST, SCHEDULE, OWN, STREETS, LOT = (
    ("runs", "first"), ("runs", "first", "schedule"), ("datasets", "own"), ("datasets", "streets"), ("datasets", "lot"),
)  # fmt: skip
HEAD = ("model", "pts_bbox_head")

CASES = [
    # weights
    Case("weights missing", ("runs.first.weights", "w.pdparams does not exist"), put(*FIRST, "weights", value="w.pdparams")),
    Case("weights misspelt", ("runs.first.weights", "did you mean resources/weights/petrv2_tiny/model.safetensors"),
         put(*FIRST, "weights", value="resources/weights/petrv2_tiny/modle.safetensors")),
    Case("weights of a finished run gone", ("runs.first.weights", "gone.pdparams does not exist"), _finished),
    Case("weights a folder", ("runs.first.weights", "is a folder; name the file in it"), put(*FIRST, "weights", value="resources/weights/petrv2_tiny")),
    Case("weights an empty folder", ("runs.first.weights", "is a folder, which holds no weights"), put(*FIRST, "weights", value="config/models")),
    Case("weights the run's own", ("runs.first.weights", "this run's own output"), put(*FIRST, "weights", value="results/first/train/best_model/model.pdparams")),
    Case("weights of itself", ("runs.first.weights", "this run's own output (first -> first)"), put(*FIRST, "weights", value={"run": "first"})),
    Case("weights in a circle", ("first -> second -> first", "second -> first -> second"), _circle),
    Case("weights in a circle by paths", ("first -> second -> first",), _circle_by_path),
    Case("weights of no run", ("runs.second.weights.run", "there is no run 'frist'; did you mean 'first'"), put("runs", "second", "weights", value={"run": "frist"})),
    Case("weights from home", ("runs.first.weights", "no-such-folder-of-petrflow does not exist either"), _home),
    Case("weights a bare link", ("runs.first.weights", "is a link: write {url:"), put(*FIRST, "weights", value="https://example.org/w.pdparams?key=secret")),
    Case("weights a dead file link", ("runs.first.weights.url", "leads to no file"), put(*FIRST, "weights", value={"url": "file:///nowhere/w.pdparams"})),
    Case("weights damaged", ("runs.first.weights", "is not a complete safetensors file"), _damaged),
    Case("weights a web page", ("runs.first.weights", "is a web page"), _web_page),
    Case("weights of another network", ("runs.first.weights", "hold 0 % of the model's", "not found: ", "partial_weights: true"), _other_network),
    Case("weights of a run of another model", ("runs.second.weights", "the model of run 'first'", "% are needed"), _published_model),
    Case("weights a dead link", ("link.pdparams does not exist (it is a link to /nowhere/w, which leads to no file)",), _link("/nowhere/w")),
    Case("weights a link to itself", ("it is a link to link.pdparams, which leads to no file",), _link("link.pdparams")),
    Case("weights a pipe", ("w.pdparams is a pipe or a device",), _pipe),
    Case("weights an exported model", ("w.onnx is an exported model",), _weights("w.onnx", b"\x08\x08\x12\x07")),
    Case("weights a model of Paddle's in JSON", ("w.json is JSON text",), _weights("w.json", b'{"base_code": {}}')),
    Case("weights a page under another name", ("w.safetensors is a web page",), _weights("w.safetensors", b"<html>" * 9)),
    Case("weights a pointer", ("w.safetensors is a Git LFS pointer",), _weights("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n")),
    Case("weights without names", ("the entry 0 has a number for a name",), _weights("w.pdparams", pickle.dumps({0: np.zeros(3, "float32")}, 2))),
    Case("weights of no run at all", ("runs.first.weights.run: must be text, not null",), put(*FIRST, "weights", value={"run": None})),
    Case("weights of no link", ("example.org/w is no link that can be fetched",), put(*FIRST, "weights", value={"url": "example.org/w"})),
    Case("weights empty", ("runs.first.weights: is empty",), put(*FIRST, "weights", value="")),
    # sources
    Case("source of another protocol", ("datasets.own.source: s3://bucket/a.tgz is no link that can be fetched",), put(*OWN, "source", value="s3://bucket/a.tgz")),
    Case("source of no server", ("datasets.own.source[0]: https:///a.tgz names no server",), put(*OWN, "source", value=["https:///a.tgz"])),
    Case("source of an unknown user", ("~no-such-user-here/export does not exist",), put(*LOT, "source", value="~no-such-user-here/export")),
    Case("source too long", ("cannot be read: File name too long",), put(*OWN, "source", value="a" * 300)),
    Case("source with a line break", ("datasets.own.source: 'own_root\\n' holds a line break",), put(*OWN, "source", value="own_root\n")),
    Case("version of another folder", ("datasets.own.version: '../v1.0-mini' does not have the form",), put(*OWN, "version", value="../v1.0-mini")),
    Case("source missing", ("datasets.own.source", "does not exist (there is own_root)"), put(*OWN, "source", value="own_roto")),
    Case("source of another version", ("datasets.own", "v1.0-mini, not v1.0-trainval"), put(*OWN, "version", value="v1.0-trainval")),
    Case("source no archive", ("datasets.own.source", "neither an archive"), put(*OWN, "source", value="Snakefile")),
    Case("source without tables", ("datasets.own", "lacks sample.json"), _no_tables),
    Case("sources missing", ("datasets.own.source[0]", "a.tgz does not exist", "datasets.own.source[1]", "b.tgz does not exist"),
         put(*OWN, "source", value=["a.tgz", "b.tgz"])),
    Case("list of links missing", ("datasets.own.source", "urls.txt"), put(*OWN, "source", value={"file": "urls.txt"})),
    Case("export missing", ("datasets.lot.source", "exprot does not exist; did you mean export"), put(*LOT, "source", value="exprot")),
    Case("export's poses missing", ("datasets.lot.poses", "poses.csv is no file"), put(*LOT, "poses", value="poses.csv")),
    Case("export's class unknown", ("datasets.lot.class_map.Auto", "which is no class of a model"), _unknown_class),
    Case("export's channels twice", ("datasets.lot.cameras", "gives CAM_FRONT to two image folders"),
         put(*LOT, "cameras", value={"camera_image_0": "CAM_FRONT", "camera_image_1": "CAM_FRONT"})),
    # splits and scenes
    Case("scene unknown", ("datasets.own.splits.train", "scene-0062", "the nearest is scene-0061"), put(*OWN, "splits", "train", value=["scene-0062"])),
    Case("split unknown", ("datasets.own.splits.val", "'mini_vall'", "mini_val"), put(*OWN, "splits", "val", value="mini_vall")),
    Case("split without scenes here", ("datasets.own.splits.val", "none of the 150 scenes of split 'test' is in these tables"), put(*OWN, "splits", "val", value="test")),
    Case("synthetic split unknown", ("datasets.streets.splits.train", "did you mean 'mini_train'"), put(*STREETS, "splits", value={"train": "mini_trian"})),
    Case("synthetic scene unknown", ("datasets.streets.splits.val", "'scene-0062'", "did you mean"), put(*STREETS, "splits", value={"val": ["scene-0062"]})),
    Case("demo scene unknown", ("runs.second.demo.scene", "'scene-0104'", "did you mean 'scene-0103'"), put("runs", "second", "demo", "scene", value="scene-0104")),
    Case("demo scene of training", ("runs.second.demo.scene", "is a training scene"), put("runs", "second", "demo", "scene", value="scene-0061")),
    Case("batch larger than the data", ("runs.first.schedule.batch_size", "is 64, and the training split of 'streets' has 9 samples"),
         put(*SCHEDULE, "batch_size", value=64)),
    Case("batch larger on several devices", ("runs.first.schedule.batch_size", "on each of 8 devices"), put(*SCHEDULE, "devices", value=8)),
    # limits and names
    Case("metric unknown", ("runs.first.expect.NDSS", "did you mean 'NDS'"), put(*FIRST, "expect", value={"NDSS": {"value": 1}})),
    Case("density", ("datasets.streets.density", "at most 4"), put(*STREETS, "density", value=5)),
    Case("scenes", ("datasets.streets.scenes", "at most 8000"), put(*STREETS, "scenes", value=9000)),
    Case("image size", ("datasets.streets.image_size[0]", "at most 4096"), put(*STREETS, "image_size", value=[9000, 225])),
    Case("half a batch", ("runs.first.schedule.batch_size", "a whole number, not 2.5"), put(*SCHEDULE, "batch_size", value=2.5)),
    Case("key unknown", ("runs.first.schedule.learning_rat", "did you mean 'learning_rate'"), put(*SCHEDULE, "learning_rat", value=1)),
    Case("data set unknown", ("runs.first.dataset", "did you mean 'streets'"), put(*FIRST, "dataset", value="Streets")),
    Case("predicted data set unknown", ("runs.first.predict[1]", "did you mean 'streets'"), put(*FIRST, "predict", value=["streets", "street"])),
    Case("a run on a test split", ("runs.second.dataset", "no labels to train on: name it under predict"), put(*OWN, "version", value="v1.0-test")),
    Case("min_score of no class", ("runs.first.min_score.cars", "did you mean 'car'"), put(*FIRST, "min_score", value={"cars": 0.4})),
    Case("names that differ by case", ("datasets.Streets", "differs from 'streets' by case only"), put("datasets", "Streets", value={"kind": "synthetic"})),
    Case("name taken", ("runs.Weights", "taken by petrflow's own folders"), put("runs", "Weights", value={"dataset": "streets", "model": "petrv2_tiny"})),
    Case("name no folder", ("runs.a/b", "becomes a folder"), put("runs", "a/b", value={"dataset": "streets", "model": "petrv2_tiny"})),
    Case("kind unknown", ("datasets.lot.kind", "did you mean 'xtreme1'"), put(*LOT, "kind", value="xtreme")),
    Case("rate infinite", ("runs.first.schedule.learning_rate: must be a finite number, not .inf",), put(*SCHEDULE, "learning_rate", value=float("inf"))),
    Case("rate no number", ("runs.first.schedule.learning_rate: must be a finite number, not .nan",), put(*SCHEDULE, "learning_rate", value=float("nan"))),
    Case("epochs without end", ("at most 100000",), put(*SCHEDULE, "epochs", value=10**9)),
    Case("seed beyond Paddle's", ("at most 2147483648",), put(*SCHEDULE, "seed", value=2**70)),
    Case("metric in percent", ("runs.first.expect.NDS.value: is 37.4, and NDS is a share",), put(*FIRST, "expect", value={"NDS": {"value": 37.4}})),
    Case("name too long", ("becomes a folder",), put("runs", "a" * 300, value={"dataset": "streets", "model": "petrv2_tiny"})),
    # model files
    Case("model by its file name", ("stands without its ending: petrv2_tiny",), put(*FIRST, "model", value="petrv2_tiny.yml")),
    Case("part that is not there", ("fresh[0]: no part of the network is called pts_bbox_head.monoculra",), model("fresh", value=["pts_bbox_head.monoculra"])),
    Case("turn in degrees", ("augmentation.rotation: is [-22.5, 22.5] rad",), model("augmentation", "rotation", value=[-22.5, 22.5])),
    Case("scale the wrong way", ("augmentation.scale: is [1.05, 0.95]: the smaller number comes first",), model("augmentation", "scale", value=[1.05, 0.95])),
    Case("picture cut off whole", ("input.bot_pct_lim: is [0.0, 2.0]",), model("input", "bot_pct_lim", value=[0.0, 2.0])),
    Case("model unknown", ("runs.first.model", "did you mean 'petrv2_tiny'"), put(*FIRST, "model", value="petrv2_tini")),
    Case("model file missing", ("runs.first.model", "own.yml does not exist"), put(*FIRST, "model", value="own.yml")),
    Case("num_querry", ("own.yml, line ", "model.pts_bbox_head.num_querry: unknown key; did you mean 'num_query'"), model(*HEAD, "num_querry", value=900)),
    Case("num_classes and class_names", ("own.yml", "num_classes: is 9, and class_names holds 10 names"), model(*HEAD, "num_classes", value=9)),
    Case("num_pred and num_layers", ("own.yml", "num_pred: is 6, and transformer.decoder.num_layers is 3"), model(*HEAD, "num_pred", value=6)),
    Case("image size and divisor", ("own.yml", "input.size_divisor: pads image_size"), model("input", "size_divisor", value=36)),
    # the text of the file
    Case("key twice", ("config/config.yaml, line ", "runs.first: this key stands here a second time"), text(("  second:", "  first:"))),
    Case("name of digits", ("datasets.2024", "put it in quotes"), text(("  streets:", "  2024:"))),
    Case("name a date", ("datasets.2024-01-15", "put it in quotes"), text(("  streets:", "  2024-01-15:"))),
    Case("name a truth", ("datasets.no", "put it in quotes"), text(("  streets:", "  no:"))),
    Case("dataset a number", ("runs.first.dataset", "put it in quotes"), text(("dataset: streets", "dataset: 2024"))),
    Case("tab", ("config/config.yaml, line 3", "a tab stands where spaces must"), text(("    kind: synthetic", "\tkind: synthetic"))),
    Case("full-width colon", ("full-width '：'",), text(("kind: synthetic", "kind：synthetic"))),
    Case("no space after a colon", ("not valid YAML",), text(("kind: synthetic", "kind:synthetic"))),
    Case("bracket open", ("config/config.yaml, line ", "not valid YAML"), text(("source: export", "source: [export"))),
    Case("quote open", ("config/config.yaml, line ", "a quotation mark is not closed"), text(("source: export", "source: 'export"))),
    Case("alias of nothing", ("config/config.yaml, line ", "no anchor is called"), text(("source: export", "source: *export"))),
    Case("Chinese key", ("runs.first.数据集", "unknown key"), text(("    dataset: streets", "    数据集: streets"))),
    Case("Chinese name", ("datasets.街道", "becomes a folder"), text(("  streets:", "  街道:"))),
    Case("Chinese path", ("datasets.lot.source", "出口 does not exist"), put(*LOT, "source", value="出口")),
    Case("number with a colon", ("runs.first.schedule.epochs: YAML reads 1:30 as 90",), text(("epochs: 1", "epochs: 1:30"))),
    Case("number with a nought", ("runs.first.schedule.epochs: YAML reads 010 as 8",), text(("epochs: 1", "epochs: 010"))),
    Case("binary", ("line 3", "the tag tag:yaml.org,2002:binary is not understood"), text(("kind: synthetic", "kind: !!binary aGk="))),
    Case("empty file", ("config/config.yaml", "is empty"), raw(b"")),
    Case("list at the top", ("config/config.yaml", "is a list"), raw(b"- datasets\n- runs\n")),
    Case("words alone", ("config/config.yaml", "holds no keys"), raw(b"datasets\n")),
    Case("GBK", ("config/config.yaml", "is not UTF-8 text"), raw("datasets: {街道: {kind: synthetic}}\n".encode("gbk"))),
    Case("UTF-16", ("config/config.yaml", "is not UTF-8 text"), raw("datasets: {}\n".encode("utf-16"))),
    Case("no runs", ("the key 'runs' is missing",), raw(b"datasets: {a: {kind: synthetic}}\n")),
    # the command line
    Case("target unknown", ("There is nothing called results/first/trian/metrics.json", "near are ", "results/first/train/metrics.json"),
         arguments=("results/first/trian/metrics.json",)),
    Case("target misspelt in a stage's folder", ("There is nothing called results/first/train/metrcis.json", "results/first/train/metrics.json"),
         arguments=("results/first/train/metrcis.json",)),
    Case("target a rule of one run", ("train is a rule for one run", "ask for train_all"), arguments=("train",)),
    Case("--config of a new run", ("--config: runs.frist: the key 'model' is missing",), arguments=("--config", "runs={frist: {schedule: {epochs: 2}}}")),
    Case("target of no rule", ("There is nothing called trian_all", "train_all", "runs are first, second"), arguments=("trian_all",)),
    Case("--config of a wrong key", ("--config: runs.first.schedule.epoch", "did you mean 'epochs'"),
         arguments=("--config", "runs={first: {schedule: {epoch: 2}}}")),
    Case("--config of a wrong value", ("--config: runs.first.schedule.epochs", "at least 1"), arguments=("--config", "runs={first: {schedule: {epochs: 0}}}")),
    Case("--config of an unknown data set", ("--config: predict[0]", "there is no data set 'stret'"), arguments=("--config", "predict=[stret]")),
    Case("CONFIG missing", ("config/confg.yaml: there is no such file; did you mean config/config.yaml",), arguments=("--configfile", "config/confg.yaml")),
    Case("CONFIG a folder", ("config: is a folder",), arguments=("--configfile=config",)),
    Case("CONFIG with a tab", ("tab.yaml, line 2", "a tab stands"), lambda folder, config: _write(folder / "tab.yaml", b"a:\n\tb: 1\n"),
         ("--configfile", "tab.yaml")),
    Case("CONFIG in GBK", ("gbk.yaml", "is not UTF-8"), lambda folder, config: _write(folder / "gbk.yaml", "名: 1\n".encode("gbk")), ("--configfile", "gbk.yaml")),
]  # fmt: skip


def make(case: Case, folder: Path) -> None:
    """Write a configuration with one mistake, and what it names, into a folder that has config/models and resources."""
    write_sources(folder)
    config = copy.deepcopy(BASE)
    written = case.change(folder, config)
    if not isinstance(written, bytes):
        written = (
            written if isinstance(written, str) else yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        ).encode()
    _write(folder / "config" / "config.yaml", written)


def write_sources(folder: Path) -> None:
    """Write a nuScenes root of tables alone, and an empty export."""
    shutil.rmtree(folder / "own_root", ignore_errors=True)
    tables = folder / "own_root" / "v1.0-mini"
    for name in TABLE_NAMES:
        rows = []
        if name == "scene":
            rows = [{"name": scene, "nbr_samples": 4} for scene in ("scene-0061", "scene-0103", "scene-0553")]
        _write(tables / f"{name}.json", json.dumps(rows).encode())
    (folder / "export").mkdir(exist_ok=True)


def tree(folder: Path) -> str:
    """A hash of every file below a folder, name and content; Snakemake's folder and petrflow's cache of hashes apart."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        apart = {".snakemake", "__pycache__", ".cache"} & set(path.parts) or path == folder / "data"
        if not apart:
            content = path.read_bytes() if path.is_file() else b""
            digest.update(
                f"{path.relative_to(folder)} {path.is_symlink()} ".encode() + hashlib.sha256(content).digest()
            )
    return digest.hexdigest()
