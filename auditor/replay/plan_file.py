"""A plan in a YAML file: read without aliases, each key once, and with the line at which everything stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from auditor.replay.plan import Place, Plan, PlanError, from_document

_MAX_BYTES = 1 << 20
_MAX_NODES = 20_000


def from_yaml(path: Path) -> Plan:
    """Return the plan in a YAML file; relative run directories are taken from the file's own folder.

    Raises
    ------
    PlanError
        If the file is not YAML of a sane size, or not a plan; it names the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError("the plan cannot be read", where=str(path), why=error.strerror) from error
    if len(data) > _MAX_BYTES:
        raise PlanError(f"the plan is larger than {_MAX_BYTES} bytes", where=str(path))
    try:
        text = data.decode("utf-8")
        _check_size(text, path)
        loader = _UniqueKeyLoader(text)
        try:
            node = loader.get_single_node()
            document = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise PlanError("the plan is not UTF-8", where=str(path), why=str(error)) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PlanError("the plan is not YAML", where=f"{path}:{line}", why=error.problem) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PlanError("the plan is not YAML", where=str(path), why=str(error)[:200]) from error
    lines = {} if node is None else dict(_lines(node, ()))

    def where(place: Place) -> str:
        known = next((place[:end] for end in range(len(place), -1, -1) if place[:end] in lines), ())
        return f"{path}:{lines.get(known, 1)}"

    return from_document(document, where).beside(path.parent)


def _lines(node: yaml.Node, place: Place) -> Any:
    """Yield for every place of the document the line at which it begins, from 1; a key's, where it has one."""
    yield place, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            for below, line in _lines(value, (*place, str(key.value))):
                yield below, key.start_mark.line + 1 if len(below) == len(place) + 1 else line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*place, index))


def _check_size(text: str, path: Path) -> None:
    """Refuse aliases (they can multiply without end) and more nodes than a plan can need."""
    for count, token in enumerate(yaml.scan(text, Loader=yaml.SafeLoader)):
        if isinstance(token, yaml.AliasToken):
            raise PlanError("a plan has no use for aliases", where=f"{path}:{token.start_mark.line + 1}")
        if count > _MAX_NODES:
            raise PlanError(f"the plan has more than {_MAX_NODES} tokens", where=str(path))


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, refusing a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises
        ------
        yaml.constructor.ConstructorError
            If a key stands twice.
        """
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float | bool) or key is None:
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 1e-3 as a text, YAML 1.2 and everybody else as a number.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
