"""Text for people: numbers, sizes, times, and strings that nobody has to trust."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping, Sequence

#: A string longer than this is cut: a name of a megabyte is an attack on the reader, not a name.
LONGEST = 600
#: The longest value beside another one, and how much stands before the place where two longer ones part.
_CELL, _KEPT = 200, 40
#: What stands where there is no value.
NOTHING = "\N{EN DASH}"


def visible(value: str, limit: int = LONGEST) -> str:
    """`value` with control, format (bidirectional ones too), private and unassigned characters shown as \\u{…}.

    Newlines and tabs become spaces. Escaping for HTML is not done here: the templates do it.
    """
    cut = value if len(value) <= limit else value[:limit] + "…"
    return "".join(_shown(character) for character in cut)


def _shown(character: str) -> str:
    if character in "\n\t\r":
        return " "
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"\\u{{{ord(character):x}}}"
    return character


def plain(value: object) -> str:
    """Any JSON value in one line: strings as they are, nothing as a dash, nested values joined."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(value[key])}" for key in sorted(value, key=str)) or NOTHING
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value) or NOTHING
    return str(value)


def exact(value: object) -> str:
    """Any JSON value in one line, as `plain`, with every digit: beside another one it must not look equal to it."""
    return plain(_spelled(value)) or '""'


def _spelled(value: object) -> object:
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {name: _spelled(each) for name, each in value.items()}
    return [_spelled(each) for each in value] if isinstance(value, list) else value


def beside_each_other(a: object, b: object) -> tuple[str, str]:
    """Two values in one line each; of long ones the part in which they differ."""
    one, two = exact(a), exact(b)
    if one == two:  # a number, and a text of it
        one, two = (json.dumps(each, ensure_ascii=False, sort_keys=True) for each in (a, b))
    if max(len(one), len(two)) <= _CELL:
        return one, two
    pairs = enumerate(zip(one, two, strict=False))
    parted = next((place for place, (x, y) in pairs if x != y), min(len(one), len(two)))
    start = max(0, parted - _KEPT)
    return _part(one, start), _part(two, start)


def _part(text: str, start: int) -> str:
    end = start + _CELL
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def figure(value: object, digits: int = 4) -> str:
    """A number with so many significant digits, a true minus sign, and a dash for nothing."""
    if value is None:
        return NOTHING
    number = as_number(value)
    if number is None:
        return str(value)
    if math.isnan(number):
        return "not a number"
    text = f"{number:.{digits}g}" if math.isfinite(number) else ("∞" if number > 0 else "-∞")
    return text.replace("-", "\N{MINUS SIGN}")


def as_number(value: object) -> float | None:
    """A JSON number, or "NaN" and the infinities as the formats write them, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits, which no honest file holds
        return None


def size(count: object) -> str:
    """Bytes as people say them: "3.2 MB"."""
    number = as_number(count)
    if number is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return NOTHING


def duration(seconds: object) -> str:
    """Seconds as people say them: "3 min 20 s"."""
    number = as_number(seconds)
    if number is None or not math.isfinite(number) or number < 0:
        return NOTHING
    if number < 60:
        return f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 step", "2 steps"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
