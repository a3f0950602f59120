"""`train.log` of a run: all that its process has printed, from the first line on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import IO

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
_COLOURS = {"WARNING": "\033[33m", "ERROR": "\033[31m", "CRITICAL": "\033[31m"}


class TrainLog(logging.Handler):
    """Keeps lines until there is a folder to write them to: a run is checked before it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_FORMAT)
        self.process = os.getpid()
        self._waiting: list[str] = []
        self._file: IO[str] | None = None

    @classmethod
    def install(cls) -> TrainLog:
        """A new one at the package's logger, in place of an older one."""
        root, log = logging.getLogger("tgsr"), cls()
        for handler in [h for h in root.handlers if isinstance(h, cls)]:
            root.removeHandler(handler)
            handler.close()
        root.addHandler(log)
        return log

    @classmethod
    def of_process(cls) -> TrainLog | None:
        """That of this process; a process forked from another writes none."""
        handlers = logging.getLogger("tgsr").handlers
        return next((h for h in handlers if isinstance(h, cls) and h.process == os.getpid()), None)

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record))

    def write(self, text: str) -> None:
        """One line, or several."""
        if self._file is None:
            self._waiting.append(text)
        elif self.process == os.getpid():
            with contextlib.suppress(OSError):  # a full disk is told by what writes numbers next
                self._file.write(text + "\n")
                self._file.flush()

    def open(self, folder: Path) -> None:
        """Write to `train.log` of a run's folder, beginning with the lines that waited."""
        self.end()
        self._file = open(folder / "train.log", "a", encoding="utf-8")  # noqa: SIM115 - closed by `end`
        waiting, self._waiting = self._waiting, []
        for text in waiting:
            self.write(text)

    def end(self) -> None:
        """The run is over; later lines wait for the next one."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def close(self) -> None:
        self.end()
        super().close()


class Coloured(logging.Formatter):
    """Level names in colour, for terminals."""

    def format(self, record: logging.LogRecord) -> str:
        text, colour = super().format(record), _COLOURS.get(record.levelname)
        return text if colour is None else re.sub(rf"\b{record.levelname}\b", f"{colour}\\g<0>\033[0m", text, count=1)
