"""No message advises deleting what petrflow did not make."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
ADVICE = re.compile(r"\b(?:delete|remove|erase|rm)\b", re.IGNORECASE)
# What these speak of is a key of the config, a line of the user's to edit, and a folder that training made.
KNOWN = (
    "remove judge: devkit",
    "remove one line",
    "remove this folder to start the training from its beginning",
)


def texts(path: Path) -> list[str]:
    """Texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and len(node.value.split()) > 2
    ]


def test_no_message_advises_deleting_something() -> None:
    found = [
        f"{path.relative_to(PROJECT)}: {text}"
        for folder in ("src", "workflow")
        for path in sorted((PROJECT / folder).rglob("*.py"))
        for text in texts(path)
        if ADVICE.search(text) and not any(known in text for known in KNOWN)
    ]
    assert not found
