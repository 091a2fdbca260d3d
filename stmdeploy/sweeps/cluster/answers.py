"""The rows that a node's answer becomes."""

from __future__ import annotations

from collections.abc import Mapping

from stmdeploy.cluster.fleet import Lost
from stmdeploy.errors import Failure
from stmdeploy.files.writing import write_atomically
from stmdeploy.results.state import DONE, Measured, PlannedRow, now_utc
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact, Row, Try
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.cluster.documents import BlockAnswer, RowAnswer
from stmdeploy.sweeps.cluster.queues import Running
from stmdeploy.sweeps.comparing import as_document, contrasts_of, waves_of
from stmdeploy.sweeps.explanation import bound_by
from stmdeploy.sweeps.folder import logs_of
from stmdeploy.sweeps.prepared import PreparedSweep


def measured_rows(
    prepared: PreparedSweep,
    running: Running,
    answer: BlockAnswer,
    tries: Mapping[PlannedRow, tuple[Try, ...]],
) -> dict[PlannedRow, Measured]:
    """Rows of a block as they are stored, each compared with the others and with the guest.

    Args:
        tries: of the rows that are wanted, all of which were measured.
    """
    alive = [*running.rows, *([running.guest] if running.guest is not None else [])]
    given = dict(zip(alive, answer.rows, strict=True))
    waves = {row.key: waves_of(one.processes) for row, one in given.items() if not one.failure}
    contrasts = contrasts_of(waves, {row.key: row.row.run.batch for row in alive})
    found = {}
    for planned, tried in tries.items():
        spec, one = planned.row, given[planned]
        processes = _with_logs(prepared, spec, one)
        row = _row_of(prepared, spec, one, processes).model_copy(
            update={
                "started_utc": answer.started_utc,
                "tries": tried,
                "contrasts": as_document(contrasts[planned.key]),
            }
        )
        found[planned] = Measured(planned.position, 0, processes, row, DONE)
    return found


def try_of(running: Running, answer: BlockAnswer | Lost, failure: Failure | None) -> Try:
    """The attempt at a row that an answer ends; `failure` is that of the row."""
    if isinstance(answer, Lost):
        return Try(
            node="",
            started_utc=running.started_utc,
            ended_utc=now_utc(),
            failure=answer.reason,
        )
    return Try(
        node=answer.node,
        started_utc=answer.started_utc,
        ended_utc=answer.ended_utc,
        failure=failure.message if failure else "",
    )


def _row_of(
    prepared: PreparedSweep, spec: RowSpec, answer: RowAnswer, processes: tuple[ProcessRun, ...]
) -> Row:
    """The row of an answer, with what only its node knows."""
    bound = bound_by(answer.peaks, spec.run, prepared.artifact_of(spec).operations)
    return prepared.row(spec, processes, bound=bound).model_copy(
        update={
            "device_name": answer.device,
            "parts_ms": answer.parts_ms if prepared.spec.explain else None,
            **(_figures_of(answer.built) if answer.built else {}),
        }
    )


def _with_logs(prepared: PreparedSweep, spec: RowSpec, answer: RowAnswer) -> tuple[ProcessRun, ...]:
    """The processes, after LoadGen's logs were copied here from the node."""
    if not answer.logs:
        return answer.processes
    folder = (logs_of(prepared.store, prepared.id) / spec.key).resolve()
    for name, text in answer.logs.items():
        write_atomically(folder / name, text.encode())
    return tuple(_with_log_folder(process, str(folder)) for process in answer.processes)


def _with_log_folder(process: ProcessRun, folder: str) -> ProcessRun:
    if process.scenario is None:
        return process
    scenario = process.scenario.model_copy(update={"logs": folder})
    return process.model_copy(update={"scenario": scenario})


def _figures_of(built: PreparedArtifact) -> dict[str, object]:
    """Fields of a row that differ for an engine built on the node."""
    return {
        "artifact_sha256": built.sha256,
        "artifact_mib": built.mib,
        "build_s": built.build_s,
        "relative_l2_error": built.relative_l2_error,
    }
