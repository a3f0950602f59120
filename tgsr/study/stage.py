"""Stage: what every stage of a method shares, so that a method writes its work and its page and nothing else."""

from __future__ import annotations

import logging
import shutil
from abc import abstractmethod
from pathlib import Path

from tgsr.config.options import write_options
from tgsr.engine.checkpoint import Experiment
from tgsr.engine.runner import Runner
from tgsr.report.builder import Report
from tgsr.study.subrun import stoppable
from tgsr.utils.errors import Stopped

logger = logging.getLogger("tgsr")


class Stage(Runner):
    """A resumable stage: `work` on all ranks, then `page` from what it left.

    The folder is made (or continued, or moved aside) before, signals are caught, and no rank leaves before the product
    is on disk.
    """

    @abstractmethod
    def work(self) -> None:
        """Make the product, going on from what is there; called on all ranks.

        Raises:
            Stopped: the process was asked to stop.
        """

    def page(self) -> Report | None:
        """The stage's report, from its artefacts alone; called on rank 0."""
        return None

    def run(self) -> None:
        self._open()
        with stoppable(self.context):
            self.work()
        self.context.barrier()  # the product is on the disk
        if self.context.should_stop():
            return
        if self.context.is_main:
            self.write_page()
        self.context.barrier()

    def write_page(self) -> Path | None:
        """`results/<name>/report`, written anew."""
        report = self.page()
        if report is None:
            return None
        folder = self.results / "report"
        shutil.rmtree(folder, ignore_errors=True)
        page = report.write(folder)
        logger.info("report: %s", page)
        return page

    def stop_if_asked(self) -> None:
        """Raise `Stopped` on all ranks where any of them was asked to stop; all ranks call it equally often."""
        if any(self.context.gather([self.context.stop_requested])):
            raise Stopped

    def _open(self) -> None:
        if self.context.is_main:
            experiment = Experiment(self.options.path.experiments_root, self.options.name)
            experiment.prepare(resume=self.context.auto_resume)
            for unused in (experiment.models, experiment.states):
                if not any(unused.iterdir()):
                    unused.rmdir()
            write_options(self.options, self.folder / f"{self.folder.name}.yml")
        self.context.barrier()
