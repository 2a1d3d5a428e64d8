"""Values against a schema: one sentence for each mistake, numbers given as text taken as numbers,
defaults filled in.

A schema is JSON Schema in YAML, of which petrflow uses the keywords in :data:`KEYWORDS`. Type,
default, limit and description of a key are said there and nowhere else.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from petrflow.config.reading import Document, KeyPath, dotted, raise_all
from petrflow.config.sentences import nearest
from petrflow.errors import PetrflowError
from petrflow.messages import N_, _

KEYWORDS = {
    "$schema", "$ref", "$defs", "title", "description", "default", "type", "enum", "const", "properties", "required",
    "additionalProperties", "propertyNames", "minProperties", "allOf", "oneOf", "if", "then", "not", "items", "prefixItems", "minItems",
    "maxItems", "uniqueItems", "pattern", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum",
    "format",  # `path`: `~` is expanded
    "ordered",  # true: the order of a group's keys means something
    "runtime",  # true: the key says how a result is computed and shapes none
}  # fmt: skip
"""Keywords of a schema. The last three are petrflow's own; JSON Schema ignores them."""

_KIND_NAMES = {
    "object": N_("a group of keys"), "array": N_("a list"), "string": N_("text"), "null": "null", "integer": N_("a whole number"),
    "number": N_("a number"), "boolean": N_("true or false"),
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")


@cache
def schema_of(name: str) -> dict[str, Any]:
    """Return one of the package's schemas, ``config`` or ``model``, read once a process."""
    path = Path(str(files("petrflow.config") / "schemas" / f"{name}.yaml"))
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time; a test reads the schemas with lines
    schema: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader)
    faults = list(schema_faults(schema))
    if faults:
        raise PetrflowError(f"{path} is no schema of petrflow's: {'; '.join(faults)}.")
    return schema


def schema_faults(schema: Any, path: KeyPath = ()) -> Iterator[str]:
    """Yield what is wrong with a schema itself: unknown keywords, references that lead nowhere,
    groups where none can be.
    """
    yield from _faults(schema, schema, path)


def _faults(schema: Any, root: Any, path: KeyPath) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{dotted(path)}: a schema is a group of keywords, not {schema!r}"
        return
    for keyword, value in schema.items():
        here = (*path, keyword)
        if keyword not in KEYWORDS:
            yield f"{dotted(here)}: unknown keyword{nearest(str(keyword), KEYWORDS, listed=False)} (a comma in a text needs quotes)"
        elif keyword in ("properties", "$defs"):
            for key, entry in value.items():
                yield from _faults(entry, root, (*here, key))
        elif keyword in ("allOf", "oneOf", "prefixItems"):
            for index, entry in enumerate(value):
                yield from _faults(entry, root, (*here, index))
        elif keyword in ("additionalProperties", "propertyNames", "items", "if", "then", "not"):
            yield from _faults(value, root, here)
        elif keyword == "$ref" and value.removeprefix("#/$defs/") not in root.get("$defs", {}):
            yield f"{dotted(here)}: {value} leads nowhere"


def section(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One definition of a schema as a schema of its own."""
    return {"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]}


# ------------------------------------------------------------------------------------------------------------------ settle


def settle(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], from_text: bool = False) -> Any:
    """Return values in the types that the schema asks for where only their form differs.

    ``"2"`` and ``2.0`` become 2 where a whole number is wanted, ``"1e-4"`` a number where a number
    is; ``~`` in paths is expanded.

    Parameters
    ----------
    value : what was read
    schema, root : the value's schema and the schema that references are looked up in
    from_text : bool
        The values come from Snakemake's ``--config``, which hands every scalar on as text: ``null``
        and ``true`` too mean what YAML means by them, unless text is wanted.
    """
    if isinstance(value, Mapping):
        properties, others = object_schema(value, schema, root)
        return {key: settle(child, properties.get(key, others), root, from_text) for key, child in value.items()}
    if isinstance(value, list):
        item, items = _list_schemas(schema, root)
        return [
            settle(child, items[index] if index < len(items) else item, root, from_text)
            for index, child in enumerate(value)
        ]
    kinds, choices, formats = _scalar_forms(schema, root)
    if "path" in formats and isinstance(value, str) and value.startswith("~"):
        try:
            return str(Path(value).expanduser())
        except RuntimeError:  # of a user whom this machine does not know: it does not exist, which is said later
            return str(Path.cwd() / value)
    if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
        return int(value)
    if not isinstance(value, str) or value in choices:
        return value
    return _from_text(value, kinds, choices, from_text)


def _from_text(value: str, kinds: set[str], choices: list[Any], from_text: bool) -> Any:
    """A text as a number, true, false or null where the schema wants one of those and no text."""
    if from_text and value in ("null", "~") and ("null" in kinds or None in choices):
        return None
    if "string" in kinds:
        return value
    if kinds & {"integer", "number"} and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        whole = number.is_integer() and (kinds & {"integer"} or re.fullmatch(r"[+-]?[\d_]+", value.strip()))
        return int(number) if whole else number
    plain = {"true": True, "false": False}.get(value.lower())
    if plain is not None and ("boolean" in kinds or plain in choices):
        return plain
    return value


def _scalar_forms(schema: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[set[str], list[Any], set[str]]:
    """Types, enumerated values and formats that a scalar may have."""
    kinds: set[str] = set()
    choices: list[Any] = []
    formats: set[str] = set()
    for form in _forms(schema, root):
        declared = form.get("type", [])
        kinds |= {declared} if isinstance(declared, str) else set(declared)
        choices += form.get("enum", [])
        formats |= {form["format"]} if "format" in form else set()
    return kinds, choices, formats


def _forms(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema, what it refers to, and each of its alternatives."""
    yield schema
    if "$ref" in schema:
        yield from _forms(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    for choice in schema.get("oneOf", []):
        yield from _forms(choice, root)


def _list_schemas(
    schema: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The schema of a list's items, and those of its first items where they have their own."""
    for form in _forms(schema, root):
        if "prefixItems" in form:
            return {}, form["prefixItems"]
        if isinstance(form.get("items"), Mapping):
            return form["items"], []
    return {}, []


def object_schema(
    value: Mapping[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Schemas of a mapping's named keys and of its other keys, with references, forms and the
    choice by ``kind`` resolved.
    """
    properties: dict[str, Any] = {}
    others: Mapping[str, Any] = {}
    for form in _meant(value, _forms(schema, root)):
        properties |= form.get("properties", {})
        extra = form.get("additionalProperties", {})
        others = extra if isinstance(extra, Mapping) and extra else others
        for branch in form.get("allOf", []):
            condition = branch["if"]["properties"]
            if all(value.get(key) == rule["const"] for key, rule in condition.items()):
                properties |= object_schema(value, branch["then"], root)[0]
    return properties, others


def _meant(value: Mapping[str, Any], forms: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of a choice of forms, those whose required keys are there; all of them when a mistake leaves
    none.
    """
    given = list(forms)
    fitting = [form for form in given if set(form.get("required", ())) <= set(value)]
    return fitting if any("properties" in form for form in fitting) else given


# ------------------------------------------------------------------------------------------------------------------ check


def check(document: Document, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Settle a document's values in place, note every mistake in it, and return them with defaults
    filled in.
    """
    document.values = settle(document.values, schema, schema)
    notes = list(_impossible(document.values))
    impossible = {path for path, _says in notes}
    for error in _errors(document.values, schema):
        notes += (note for note in _says(error) if note[0] not in impossible)
    for path, says in sorted(set(notes), key=lambda note: dotted(note[0])):
        document.add(path, says)
    filled: dict[str, Any] = fill(document.values, schema, schema)
    return filled


def checked(values: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Values that came from no file: checked, settled and with every default filled in.

    Raises
    ------
    PetrflowError
        One sentence for each mistake.
    """
    document = Document(dict(values))
    filled = check(document, schema)
    raise_all(document.mistakes)
    return filled


def fill(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A copy of ``value`` with the schema's defaults and keys sorted, as their order shapes nothing
    unless the schema says so.
    """
    if not isinstance(value, Mapping):
        return value
    properties, others = object_schema(value, schema, root)
    filled = {key: child["default"] for key, child in properties.items() if "default" in child and key not in value}
    filled |= value
    keys = filled if schema.get("ordered") else sorted(filled, key=str)
    return {key: fill(filled[key], properties.get(key, others), root) for key in keys}


def _impossible(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield path and sentence of each value that no key can have: numbers without end, text that is
    empty or holds control characters.
    """
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _impossible(child, (*path, str(key)))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _impossible(child, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, _("must be a finite number, not {value}.", value=_shown(value))
    elif isinstance(value, str) and not value.strip():
        yield path, _("is empty; give a value, or leave the key out.")
    elif isinstance(value, str) and not value.isprintable():
        yield (
            path,
            _("{value} holds a line break or another character that cannot be seen; take it out.", value=_shown(value)),
        )


def _errors(values: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Any]:
    from jsonschema import Draft202012Validator  # 60 ms, which only a check needs

    for error in Draft202012Validator(dict(schema)).iter_errors(values):
        yield _innermost(error)


def _innermost(error: Any) -> Any:
    """Of an error in a choice of forms, the one inside the form that was meant: the mistake deepest
    in the value.
    """
    if not error.context or error.validator not in ("oneOf", "anyOf"):
        return error
    # A form of another type was not meant at all.
    fitting = [
        inner for inner in error.context if inner.validator != "type" or inner.absolute_path != error.absolute_path
    ]
    if not fitting:
        return error
    if isinstance(error.instance, Mapping):
        fitting = _of_the_nearest_form(error, fitting)
    deepest = max(fitting, key=lambda inner: (len(inner.absolute_path), inner.validator == "additionalProperties"))
    one_form = len({inner.schema_path[0] for inner in fitting}) == 1
    if one_form or len(deepest.absolute_path) > len(error.absolute_path) or deepest.validator == "additionalProperties":
        return _innermost(deepest)
    return error


def _of_the_nearest_form(error: Any, inner: list[Any]) -> list[Any]:
    """Of the errors in a group's forms, those in the form whose keys are most like those
    written.
    """
    forms: dict[int, list[Any]] = {}
    for mistake in inner:
        forms.setdefault(mistake.schema_path[0], []).append(mistake)

    def likeness(mistakes: list[Any]) -> float:
        schemas = (mistake.schema for mistake in mistakes if mistake.absolute_path == error.absolute_path)
        known = {key for schema in schemas for key in schema.get("properties", {})}
        if all(mistake.absolute_path != error.absolute_path for mistake in mistakes):
            return 2.0  # its keys are right, and a value is not
        ratios = (difflib.SequenceMatcher(None, str(key), name).ratio() for key in error.instance for name in known)
        return max(ratios, default=0.0)

    return max(forms.values(), key=likeness)


def _says(error: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield path and sentence of each mistake that one error of the validator stands for."""
    path = tuple(error.absolute_path)
    rule, wanted, value, schema = error.validator, error.validator_value, error.instance, error.schema
    if rule == "additionalProperties":
        known = list(schema.get("properties", {}))
        for key in value:
            if key not in known:
                yield (*path, key), _("unknown key{hint}.", hint=nearest(str(key), known))
    elif rule == "required":
        for key in (key for key in wanted if key not in value):
            yield path, _("the key {key!r} is missing.", key=key)
    elif "propertyNames" in error.absolute_schema_path:
        says = _sentence(rule, wanted, value, schema, error.message) if rule == "enum" else _name_says(rule, value)
        yield (*path, str(value)), says
    else:
        yield path, _sentence(rule, wanted, value, schema, error.message)


def _name_says(rule: str, value: Any) -> str:
    if rule == "not":
        return _("the name {value!r} is taken by petrflow's own folders; choose another one.", value=value)
    return _(
        "the name {value!r} becomes a folder: use letters a-z, digits, '_', '-' and '.', a letter or digit first.",
        value=value,
    )


def _sentence(rule: str, wanted: Any, value: Any, schema: Mapping[str, Any], message: str) -> str:
    if rule == "type":
        kinds = [wanted] if isinstance(wanted, str) else list(wanted)
        quotes = _("; put it in quotes") if "string" in kinds and isinstance(value, int | float) else ""
        return _(
            "must be {kinds}, not {value}{quotes}.",
            kinds=_(" or ").join(_(_KIND_NAMES[kind]) for kind in kinds),
            value=_shown(value),
            quotes=quotes,
        )
    if rule == "enum":
        choices = [_shown(choice) if isinstance(choice, bool | None) else str(choice) for choice in wanted]
        return _(
            "{value} is none of {choices}{hint}.",
            value=_shown(value),
            choices=", ".join(choices),
            hint=nearest(str(value), choices, listed=False),
        )
    if rule == "const":
        return _("must be {wanted}, not {value}.", wanted=_shown(wanted), value=_shown(value))
    if rule == "oneOf":
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _("{value} is a number where a name or path is meant: put it in quotes.", value=_shown(value))
        return _(
            "{value} has no form that is understood here. {description}",
            value=_shown(value),
            description=schema.get("description", ""),
        ).rstrip()
    if rule in ("minItems", "maxItems", "prefixItems", "items"):
        least, most = schema.get("minItems", 0), schema.get("maxItems", len(schema.get("prefixItems", [])) or None)
        count = (
            str(least)
            if least == most
            else _("at least {least}", least=least)
            if most is None
            else _("{least} to {most}", least=least, most=most)
        )
        return _("must be a list of {count} values, not {value}.", count=count, value=_shown(value))
    if rule == "uniqueItems":
        return _("names something twice: {value}.", value=_shown(value))
    if rule == "minProperties":
        return _("is empty: name at least one.")
    if rule == "pattern":
        described = f": {schema['description']}" if "description" in schema else ""
        return (
            _(
                "{value} does not have the form that is wanted here{described}",
                value=_shown(value),
                described=described or f", {wanted}",
            ).rstrip(".")
            + "."
        )
    bounds = {
        "minimum": N_("at least"),
        "exclusiveMinimum": N_("more than"),
        "maximum": N_("at most"),
        "exclusiveMaximum": N_("less than"),
    }
    if rule in bounds:
        return _("must be {bound} {wanted}, not {value}.", bound=_(bounds[rule]), wanted=wanted, value=_shown(value))
    return f"{message}."


def _shown(value: Any) -> str:
    """A value as people write it in YAML, cut short where it is long; of a link, that it is one: any
    part of it may be a token.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        text = repr(value)
    else:
        text = (
            yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
            .removesuffix("\n...\n")
            .strip()
        )
    text = re.sub(r"(https?://).*", r"\1…", text, flags=re.DOTALL | re.IGNORECASE)
    return text if len(text) <= 80 else f"{text[:77]}…"
