"""The one base error: what went wrong, where, why, and what to do next."""

from __future__ import annotations


class MemauditError(Exception):
    """An error whose message a user can act on.

    Parameters
    ----------
    what
        One short sentence: what went wrong.
    where
        The file, line, option or object it happened at.
    why
        The reason, if it is not plain from ``what``.
    next_step
        What the user can do now; a command where there is one.

    ``exit_status`` is what the command line ends with (design: 2 is usage or configuration).
    """

    exit_status = 2

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, next_step: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.why:
            lines.append(f"  because {self.why}")
        if self.next_step:
            lines.append(f"  try: {self.next_step}")
        return "\n".join(lines)


class NothingToAuditError(MemauditError):
    """There is nothing here that memaudit can examine (exit status 3)."""

    exit_status = 3


class InconclusiveError(MemauditError):
    """The question cannot be answered with what is here (exit status 4)."""

    exit_status = 4
