"""YAML files as values with the line of every key; whatever is wrong with the text becomes one
sentence with file and line.

PyYAML keeps the last of two equal keys, reads ``2024`` as a number and ``no`` as false, and forgets
lines. Here the node tree is read, so that duplicates, names that are no text, and lines are known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from petrflow.errors import InputError
from petrflow.messages import N_, _

KeyPath = tuple[str | int, ...]

# Values a file may unfold to; aliases of aliases grow without end.
_MOST_NODES = 100_000

_FULL_WIDTH = {
    "：": ":",
    "，": ",",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "［": "[",
    "］": "]",
    "｛": "{",
    "｝": "}",
    "　": " ",
}


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file that a person wrote.

    Attributes
    ----------
    path : tuple
        Keys and list indices that lead to the value; empty for the file as a whole.
    says : str
        What is wrong and what to do, one sentence with its full stop.
    place : str
        File and line, where they are known.
    """

    path: KeyPath
    says: str
    place: str = ""

    def __str__(self) -> str:
        where = dotted(self.path)
        return "".join(f"{part}: " for part in (self.place, where) if part) + self.says


@dataclass
class Document:
    """The values of one or several YAML files, merged, with the place of every key and the mistakes
    found so far.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, path: KeyPath) -> str:
        """File and line of a key, or of the nearest group around it that stands in a file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return ""

    def add(self, path: KeyPath, says: str) -> None:
        """Note a mistake at a key."""
        self.mistakes.append(Mistake(path, says, self.place(path)))


def dotted(path: Iterable[Any]) -> str:
    """A key's path as people write it: ``datasets.x.source[0].url``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def shown(path: Path | str) -> str:
    """A path as people know it: from where they stand when it lies below."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def raise_all(mistakes: Iterable[Mistake]) -> None:
    """Raise one error with all mistakes, one a line; do nothing when there are none."""
    sentences = list(dict.fromkeys(str(mistake) for mistake in mistakes))
    if sentences:
        raise InputError("\n".join(sentences))


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file whose top level is a group of keys.

    Raises
    ------
    InputError
        One sentence for each mistake, with the line.
    """
    document = read_yaml(path)
    raise_all(document.mistakes)
    return document.values


def read_yaml(path: Path | str) -> Document:
    """Read a YAML file (or JSON, which is YAML but for its tabs) with the line of every key."""
    path = Path(path)
    document = Document()
    text = _text(path, document)
    if document.mistakes:
        return document
    try:
        loader = yaml.SafeLoader(text if path.suffix != ".json" else _without_tabs(text))
        node = loader.get_single_node()
        if node is None:
            return _whole(document, path, _("is empty: it must hold keys and values, as config/config.yaml does."))
        if not isinstance(node, yaml.MappingNode):
            return _whole(document, path, _no_group(node, text))
        _Reader(path, loader, document).read(node)
    except yaml.YAMLError as error:
        document.mistakes.append(_syntax(path, error, text))
    except RecursionError:
        return _whole(document, path, _("is nested too deeply to be a configuration."))
    return document


def merged(files: Iterable[Path | str], overrides: Mapping[str, Any] | None = None) -> Document:
    """Read several files, later ones over earlier ones key by key, and put ``overrides`` over all
    of them.
    """
    whole = Document()
    for path in files:
        part = read_yaml(path)
        whole.mistakes += part.mistakes
        whole.places |= part.places
        merge(whole.values, part.values)
    if overrides:
        known = set(whole.places)
        merge(whole.values, overrides)
        for keys in _paths(overrides):
            groups = (keys[:length] for length in range(1, len(keys)))
            whole.places |= dict.fromkeys([keys, *(group for group in groups if group not in known)], "--config")
    return whole


def merge(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Put ``others`` over ``values``, group by group, in place; a group that both have keeps what
    only ``values`` has.
    """
    for key, value in others.items():
        if isinstance(value, Mapping):
            inner = values.get(key)
            values[key] = dict(inner) if isinstance(inner, Mapping) else {}
            merge(values[key], value)
        else:
            values[key] = value


def _paths(values: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path that leads to something that is no group."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _paths(value, (*path, str(key)))
    elif path:
        yield path


# ------------------------------------------------------------------------------------------------------------------ text


def _whole(document: Document, path: Path, says: str) -> Document:
    document.mistakes.append(Mistake((), says, shown(path)))
    return document


def _text(path: Path, document: Document) -> str:
    """A file's text; a file that cannot be read or is no text becomes a mistake."""
    try:
        raw = path.read_bytes()
    except IsADirectoryError:
        _whole(document, path, _("is a folder, not a YAML file."))
        return ""
    except FileNotFoundError:
        from petrflow.config.sentences import nearest_file

        _whole(document, path, _("there is no such file{hint}.", hint=nearest_file(path)))
        return ""
    except OSError as error:
        _whole(document, path, _("cannot be read: {strerror}.", strerror=error.strerror))
        return ""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        _whole(
            document,
            path,
            _("line {line} is not UTF-8 text (GBK or UTF-16, perhaps): save the file as UTF-8.", line=line),
        )
        return ""


def _without_tabs(text: str) -> str:
    """JSON with spaces in place of the tabs that YAML forbids; a string in JSON holds none."""
    return text.replace("\t", " ")


def _no_group(node: yaml.Node, text: str) -> str:
    if isinstance(node, yaml.SequenceNode):
        return _("is a list; its top level must be keys and values, as in config/config.yaml.")
    return _(
        "holds no keys{odd_characters}.",
        odd_characters=_odd_characters(text, None)
        or _(" and values; write `key: value`, with a space after the colon"),
    )


def _syntax(path: Path, error: yaml.YAMLError, text: str) -> Mistake:
    """One sentence for a text that is no YAML."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        position = getattr(error, "position", None)
        line = text[:position].count("\n") + 1 if isinstance(position, int) else None
    else:
        line = mark.line + 1
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]
    hint = _odd_characters(text, line)
    if "'\\t'" in problem:
        problem, hint = _("a tab stands where spaces must"), _("; indent with spaces")
    elif "could not find expected ':'" in problem and not hint:
        hint = _("; a key is followed by a colon and a space")
    elif "undefined alias" in problem:
        problem, hint = (
            problem.replace("found undefined alias", _("no anchor is called")),
            _("; quote a text that begins with *"),
        )
    elif "found unexpected end of stream" in problem or "while scanning a quoted scalar" in str(
        getattr(error, "context", "")
    ):
        problem = _("a quotation mark is not closed")
    place = shown(path) if line is None else _("{path}, line {line}", path=shown(path), line=line)
    return Mistake((), _("this is not valid YAML: {problem}{hint}.", problem=problem, hint=hint), place)


def _odd_characters(text: str, line: int | None) -> str:
    """A hint when a line, or the one before it, or any line holds a full-width character that YAML
    knows only in ASCII.
    """
    lines = text.splitlines()
    near = range(len(lines)) if line is None else range(max(0, line - 2), min(len(lines), line))
    for number in reversed(near) if line is not None else near:
        for odd, plain in _FULL_WIDTH.items():
            if odd in lines[number].partition("#")[0]:
                return _(
                    "; line {number} has a full-width {odd!r}: write {plain!r}",
                    number=number + 1,
                    odd=odd,
                    plain=plain + " " if plain == ":" else plain,
                )
    return ""


# ------------------------------------------------------------------------------------------------------------------ nodes


class _Reader:
    """Turns a node tree into values, noting places, duplicates and names that are no text."""

    def __init__(self, path: Path, loader: yaml.SafeLoader, document: Document) -> None:
        self._path, self._loader, self._document = shown(path), loader, document
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.MappingNode) -> None:
        self._document.values.update(self._mapping(node, ()))

    def _place(self, node: yaml.Node) -> str:
        return _("{path}, line {line}", path=self._path, line=node.start_mark.line + 1)

    def _note(self, path: KeyPath, node: yaml.Node, says: str) -> None:
        self._document.mistakes.append(Mistake(path, says, self._place(node)))

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self._open:
            raise yaml.constructor.ConstructorError(None, None, _("an anchor holds itself"), node.start_mark)
        self._count += 1
        if self._count > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, _("aliases of aliases make too many values"), node.start_mark
            )
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag == "tag:yaml.org,2002:timestamp":  # no key of petrflow's is a date: a name was meant
            return node.value
        try:
            value = self._loader.construct_object(node)
        except yaml.constructor.ConstructorError as error:
            problem = _("the tag {tag} is not understood; leave it out", tag=node.tag)
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error
        except ValueError:
            return node.value
        if isinstance(value, bytes):
            problem = _("the tag {tag} is not understood; leave it out", tag=node.tag)
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if isinstance(value, int | float) and _OTHER_BASE.fullmatch(node.value):
            self._note(
                path,
                node,
                _("YAML reads {text} as {number}; write the number that is meant.", text=node.value, number=value),
            )
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        inherited: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in sources:
                    if not isinstance(source, yaml.MappingNode):
                        self._note(path, key_node, _("`<<` must name an anchor of a group of keys."))
                        continue
                    inherited = self._value(source, path) | inherited
                continue
            key = self._key(key_node, path)
            if key in lines:
                self._note(
                    (*path, key),
                    key_node,
                    _("this key stands here a second time, after line {line}; keep one of them.", line=lines[key]),
                )
            lines[key] = key_node.start_mark.line + 1
            self._document.places[(*path, key)] = self._place(key_node)
            values[key] = self._value(value_node, (*path, key))
        return inherited | values

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._note(path, node, _("a key must be a name, not a list or a group."))
            return "?"
        value = node.value if node.tag == "tag:yaml.org,2002:timestamp" else self._scalar(node, path)
        if node.tag != "tag:yaml.org,2002:str" or not isinstance(value, Hashable):
            kind = _(_KINDS.get(node.tag.rpartition(":")[2], N_("something else than text")))
            self._note(
                (*path, node.value),
                node,
                _(
                    "YAML reads this name as {kind}: put it in quotes, {quoted}.",
                    kind=kind,
                    quoted=json.dumps(node.value, ensure_ascii=False),
                ),
            )
        return str(node.value)


_OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 takes as octal or as minutes and seconds."""

_KINDS = {
    "int": N_("a number"),
    "float": N_("a number"),
    "timestamp": N_("a date"),
    "bool": N_("true or false"),
    "null": N_("nothing"),
}
