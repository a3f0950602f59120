"""Errors that the user can mend. The command line prints them as one line and exits with code 2, no traceback."""

from __future__ import annotations

EXIT_STOPPED = 75
"""Exit code (EX_TEMPFAIL of sysexits.h): asked to stop; all is saved, and the command with `--auto_resume` goes on."""


class UserError(ValueError):
    """Something the user gave is wrong: `place: problem; remedy`.

    Args:
        problem: what is wrong, with the offending value.
        place: where, e.g. `options/x.yml:31: network_g.num_fea` or a file path; empty when the problem names it.
        remedy: what to do about it; empty when the problem says it.
    """

    def __init__(self, problem: str, *, place: str = "", remedy: str = "") -> None:
        self.problem, self.place, self.remedy = problem, place, remedy
        super().__init__((f"{place}: " if place else "") + problem + (f"; {remedy}" if remedy else ""))


class ConfigError(UserError):
    """An option is wrong."""


class DataError(UserError):
    """An image, data set or artefact is wrong."""


class CheckpointError(UserError):
    """A checkpoint is damaged, foreign or does not fit."""


class Stopped(BaseException):
    """The run was asked to stop and leaves what it is at; what was done is saved and goes on with `--auto_resume`.

    No `Exception`: whoever survives a failing image or training must not survive this.
    """
