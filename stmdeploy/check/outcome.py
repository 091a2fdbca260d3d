"""The result of a check: the document that every output format is made from."""

from __future__ import annotations

from stmdeploy.check.bundle import MachineKey
from stmdeploy.check.policy import Policy
from stmdeploy.check.verdict import Verdict
from stmdeploy.errors import ExitCode
from stmdeploy.schema.document import Document

#: 2: the overall slowdown, what others used, and intervals of gates.
CHECK_SCHEMA_VERSION = 2
#: Verdicts in addition to those of the statistics.
FAILED, OUTPUTS_DIFFER = "failed", "outputs differ"
#: Exit codes of verdicts, the gravest first: the gravest one is that of the whole check.
_EXIT_CODES = {
    OUTPUTS_DIFFER: ExitCode.OUTPUTS_DIFFER,
    str(Verdict.REGRESSION): ExitCode.REGRESSION,
    FAILED: ExitCode.WORKER_FAILED,
    str(Verdict.CANNOT_TELL): ExitCode.CANNOT_TELL,
}


class Gate(Document):
    """A figure of both sides in ``unit``, and by how much it is worse, with an interval; ``broken``
    if all of that is beyond ``limit_percent``."""

    name: str
    unit: str
    baseline: float
    candidate: float
    growth_percent: float
    growth_percent_low: float
    growth_percent_high: float
    limit_percent: float
    broken: bool


class CheckedRow(Document):
    """One row of a check.

    ``verdict`` is one of `verdict.Verdict`, `FAILED` or `OUTPUTS_DIFFER`. The slowdown of the
    typical inference and its interval are in per cent, negative if faster, and None if unknown;
    ``overall_percent`` is that of the mean over all inferences. Latencies are of one inference of
    the whole batch, the median of the processes' medians; ``*_others_processors`` say how many
    processors other programs used during the turns of a side. ``baseline_*`` is None, or empty, if
    only stored numbers were compared. ``advice`` says what to do. Samples are those of this check,
    process after process.
    """

    name: str
    model: str
    runtime: str
    precision: str
    batch: int
    verdict: str
    slowdown_percent: float | None
    slowdown_percent_low: float | None
    slowdown_percent_high: float | None
    overall_percent: float | None
    overall_percent_low: float | None
    overall_percent_high: float | None
    threshold_percent: float
    baseline_latency_ms_p50: float | None
    candidate_latency_ms_p50: float | None
    baseline_throughput_images_s: float | None
    candidate_throughput_images_s: float | None
    baseline_others_processors: float | None
    candidate_others_processors: float | None
    pairs: int
    measured_s: float
    gates: tuple[Gate, ...]
    advice: tuple[str, ...]
    baseline_samples_ms: tuple[float, ...]
    candidate_samples_ms: tuple[float, ...]


class CheckResult(Document):
    """A whole check; ``way`` is what it compared: ``artifacts``, ``interpreters`` or ``stored``."""

    schema_version: int = CHECK_SCHEMA_VERSION
    stmdeploy_version: str
    created_utc: str
    baseline: str
    candidate: str
    way: str
    machine: MachineKey
    error_probability: float
    cannot_tell: str
    rows: tuple[CheckedRow, ...]

    @property
    def exit_code(self) -> ExitCode:
        """That of the gravest verdict; `cannot_tell` decides what "cannot tell" ends with."""
        verdicts = {row.verdict for row in self.rows}
        code = next((c for verdict, c in _EXIT_CODES.items() if verdict in verdicts), ExitCode.OK)
        if code is ExitCode.CANNOT_TELL:
            return Policy(cannot_tell=self.cannot_tell).cannot_tell_code
        return code

    def figures(self) -> dict[str, object]:
        """The document for scripts: everything but the raw samples."""
        samples = {"baseline_samples_ms", "candidate_samples_ms"}
        document = self.model_dump(mode="json", exclude={"rows": {"__all__": samples}})
        return {**document, "exit_code": int(self.exit_code)}
