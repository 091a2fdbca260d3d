"""The result of a check: the document that every output format is made from."""

from __future__ import annotations

from pydantic import Field

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
    """A figure of both sides, and by how much it is worse, with an interval."""

    name: str = Field(description="Name of the gate, such as memory.")
    unit: str = Field(description="Unit of both figures.")
    baseline: float = Field(description="Baseline's figure.")
    candidate: float = Field(description="Candidate's figure.")
    growth_percent: float = Field(description="How much worse the candidate's is, in per cent.")
    growth_percent_low: float = Field(description="Lower end of its interval.")
    growth_percent_high: float = Field(description="Upper end of its interval.")
    limit_percent: float = Field(description="Growth that the gate allows, in per cent.")
    broken: bool = Field(description="True if the whole interval is beyond the limit.")


class CheckedRow(Document):
    """One row of a check."""

    name: str = Field(description="Name: MODEL/RUNTIME/PRECISION/batchN.")
    model: str = Field(description="Name of the model.")
    runtime: str = Field(description="Runtime.")
    precision: str = Field(description="Precision.")
    batch: int = Field(description="Images per inference.")
    verdict: str = Field(
        description="regression, improvement, no change, cannot tell, outputs differ or failed."
    )
    slowdown_percent: float | None = Field(
        description="Slowdown of the typical inference, in per cent; None if unknown."
    )
    slowdown_percent_low: float | None = Field(description="Lower end of its interval.")
    slowdown_percent_high: float | None = Field(description="Upper end of its interval.")
    overall_percent: float | None = Field(description="The same of the mean over all inferences.")
    overall_percent_low: float | None = Field(description="Lower end of its interval.")
    overall_percent_high: float | None = Field(description="Upper end of its interval.")
    threshold_percent: float = Field(description="Slowdown that is a regression, in per cent.")
    baseline_latency_ms_p50: float | None = Field(
        description="Baseline's median latency in ms; None for stored numbers."
    )
    candidate_latency_ms_p50: float | None = Field(description="Candidate's latency in ms.")
    baseline_throughput_images_s: float | None = Field(
        description="Baseline's images per second: batch over latency."
    )
    candidate_throughput_images_s: float | None = Field(
        description="Candidate's images per second."
    )
    baseline_others_processors: float | None = Field(
        description="Processors that other programs used during the baseline's turns."
    )
    candidate_others_processors: float | None = Field(
        description="Processors that other programs used during the candidate's turns."
    )
    pairs: int = Field(description="Pairs of fresh processes.")
    measured_s: float = Field(description="Time of all turns, in seconds.")
    gates: tuple[Gate, ...] = Field(description="Gates that were judged.")
    advice: tuple[str, ...] = Field(description="What to do.")
    baseline_samples_ms: tuple[float, ...] = Field(
        description="Baseline's latencies in ms, process after process."
    )
    candidate_samples_ms: tuple[float, ...] = Field(
        description="Candidate's latencies in ms, process after process."
    )


class CheckResult(Document):
    """A whole check."""

    schema_version: int = Field(CHECK_SCHEMA_VERSION, description="Version of the schema.")
    stmdeploy_version: str = Field(description="Version of stmdeploy.")
    created_utc: str = Field(description="Time of the check, UTC, ISO 8601.")
    baseline: str = Field(description="The baseline, as it was named.")
    candidate: str = Field(description="The candidate, as it was named.")
    way: str = Field(description="What was compared: artifacts, interpreters, stored or files.")
    machine: MachineKey = Field(description="Machine of the check.")
    error_probability: float = Field(
        description="Probability that any interval of the check is wrong."
    )
    cannot_tell: str = Field(
        description='What "cannot tell" ends with: its own exit code, fail or pass.'
    )
    rows: tuple[CheckedRow, ...] = Field(description="Rows of the baseline.")

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
