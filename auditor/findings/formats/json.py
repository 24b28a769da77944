"""The JSON output: one versioned document on stdout, readable by people and diffable."""

from __future__ import annotations

import json
from typing import Any


def render(document: dict[str, Any]) -> str:
    """Return a document as indented JSON without a final newline; numbers are finite, as everywhere."""
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False)
