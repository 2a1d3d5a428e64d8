"""The configuration and the model files: read with lines, checked against their schemas, with
defaults filled in.

The schemas in ``schemas/`` say type, default, limit and description of every key, once.
``docs/config.md`` and ``docs/model-files.md`` are made from them.

For the workflow, preflight and every package that takes settings: what they take was checked here.
No other package may hold a default, a limit or a second check of a key. Nothing here reads a data
set or weights.
"""

from petrflow.config.models import load_model, model_path, read_model, with_model_defaults
from petrflow.config.reading import Document, KeyPath, Mistake, dotted, load_yaml, merged, raise_all, read_yaml
from petrflow.config.runs import (
    RUNTIME_KEYS,
    load_config,
    of_kind,
    predicted,
    runtime_keys,
    settings,
    shaping,
    shaping_defaults,
    training_settings,
    validate,
    weights_run,
    with_defaults,
)
from petrflow.config.schema import schema_faults, schema_of
from petrflow.config.sentences import nearest, nearest_file

__all__ = [
    "RUNTIME_KEYS",
    "Document",
    "KeyPath",
    "Mistake",
    "dotted",
    "load_config",
    "load_model",
    "load_yaml",
    "merged",
    "model_path",
    "nearest",
    "nearest_file",
    "of_kind",
    "predicted",
    "raise_all",
    "read_model",
    "read_yaml",
    "runtime_keys",
    "schema_faults",
    "schema_of",
    "settings",
    "shaping",
    "shaping_defaults",
    "training_settings",
    "validate",
    "weights_run",
    "with_defaults",
    "with_model_defaults",
]
