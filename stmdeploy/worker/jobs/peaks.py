"""The peak rates and bandwidths of the processor, with a number of threads."""

from __future__ import annotations

from functools import partial
from typing import Literal

from stmdeploy.plugins.exporter import ProductMaker
from stmdeploy.schema.hardware import Peaks
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.job import Job, Parent


class PeaksJob(Job[Peaks]):
    """Measures the best that NumPy and the installed runtimes get out of the processor.

    ``libraries`` limits it to those runtimes or ``numpy``; empty for all that are installed.
    """

    kind: Literal["peaks"] = "peaks"
    threads: int
    precisions: tuple[str, ...]
    libraries: tuple[str, ...] = ()

    def do(self, parent: Parent) -> Peaks:
        """The highest rate for each precision, and the bandwidth of every level of memory."""
        from stmdeploy.measure.clock import HostClock
        from stmdeploy.measure.peaks import Candidate, measure_peaks, numpy_product
        from stmdeploy.plugins.registry import exporters

        candidates = [Candidate("numpy", "fp32", numpy_product)]
        for exporter in exporters().values():
            if not isinstance(exporter, ProductMaker) or exporter.unavailable():
                continue
            for precision in self.precisions:
                runtime = exporter.target.runtimes[0]
                run = RunSpec(runtime, 1, self.threads, precision=precision)
                candidates.append(Candidate(runtime, precision, partial(exporter.product, run)))
        if self.libraries:
            candidates = [c for c in candidates if c.by in self.libraries]
        return measure_peaks(candidates, self.threads, HostClock())
