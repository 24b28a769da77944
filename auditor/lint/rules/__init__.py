"""One file per rule. Importing this package registers them all."""

from __future__ import annotations

from auditor.lint.rules import ma701_few_units

__all__ = ["ma701_few_units"]
