"""Where the schemas, templates and shipped examples are: inside the wheel, or at the top of a checkout."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_PACKAGE = Path(__file__).resolve().parents[1]


def resource(relative: str) -> Path:
    """Return the path of a shipped file or folder, such as ``schemas`` or ``examples/digits.py``.

    Raises
    ------
    FileNotFoundError
        If it is in neither place: the installation is incomplete.
    """
    for root in (_PACKAGE / "shipped", _PACKAGE.parent):
        path = root / relative
        if path.exists():
            return path
    raise FileNotFoundError(f"{relative} is missing from this installation of memaudit")


def template_directory() -> Path:
    """Return the folder of the report's templates, style and chart specifications."""
    return resource("templates")


@cache
def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a format, for example ``schema("trace-event")``."""
    loaded: dict[str, Any] = json.loads(resource(f"schemas/{name}.schema.json").read_text("utf-8"))
    return loaded


@cache
def validator(name: str) -> Validator:
    """Return a validator for a format's schema (JSON Schema 2020-12)."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(name))
