"""The best way to run a model on this machine: export -> test limits -> race -> outcome.

Artifacts, tests and waves are kept in a folder, so that the same race goes on where it was ended.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

from pydantic import ValidationError

from stmdeploy.errors import ExitCode, Failure, StmdeployError
from stmdeploy.files.writing import writable, write_atomically
from stmdeploy.hardware.environment import environment
from stmdeploy.measure.calm import compared
from stmdeploy.measure.contrasts import FEWEST_WAVES, wave_difference
from stmdeploy.measure.racing import Pair, Race
from stmdeploy.plugins.progress import Progress
from stmdeploy.report.text_table import counted
from stmdeploy.results.state import now_utc
from stmdeploy.schema.document import Amount, Document
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.tuned import Tuned
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.spec.tuning import ENERGY, LATENCY, MEMORY, TuneSpec
from stmdeploy.sweeps.blocks import blocks, estimated, free_memory
from stmdeploy.sweeps.comparing import waves_of
from stmdeploy.sweeps.process import ProcessLimits, Task, in_turns, one_process
from stmdeploy.tuning.candidates import (
    Candidate,
    artifacts,
    check_tune,
    reference,
    usual,
    variants,
)
from stmdeploy.tuning.making import Entry, Making, short_hash
from stmdeploy.tuning.telling import standing, told
from stmdeploy.worker.jobs.job import without_checkpoint

#: In the first waves, artifacts that cost more than so many times the leader's cost are dropped; a
#: runtime's settings were not seen to gain as much (swin without denormals: 1.24).
_SETTINGS_GAIN = 1.3
#: So many artifacts get other settings, at most.
_MOST_PARENTS = 3
#: In so many waves the usual and the reference configuration are measured even where they cannot
#: win: by then it is known what the winner gains over them, and later waves are shorter.
GUEST_WAVES = 8
#: Named in errors.
_LIMITS = "--max-error, --min-agreement and --max-top1-drop"


class _Wave(Document):
    """A wave as it is kept: blocks of processes that took turns with each other, or ran alone."""

    spent_s: Amount
    blocks: tuple[dict[str, ProcessRun], ...]
    failures: dict[str, Failure]

    @property
    def runs(self) -> dict[str, ProcessRun]:
        """One process of each; of the usual one, which is in every block, that of the first."""
        return {name: run for block in reversed(self.blocks) for name, run in block.items()}


def tune(spec: TuneSpec, progress: Progress) -> Tuned:
    """Finds the configuration that costs least among those that keep the limits.

    Raises:
        StmdeployError: bad input; nothing keeps the limits (exit code 3); what the usual
            configuration raises, which all others are compared with.
    """
    check_tune(spec)
    with writable(spec.folder):
        return Tuning(spec, progress).outcome()


class Tuning:
    """One race, from beginning to end.

    Attributes:
        measured_s, exported_s: seconds that waves, and exports and tests of limits took.
    """

    def __init__(self, spec: TuneSpec, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._environment, self._started = environment(), now_utc()
        self._usual, self._reference = usual(spec), reference(spec)
        self._making = Making(spec, self._usual, self._environment, progress)
        self._entries = self._making.entries
        self._race = Race(spec.race.error, self._usual.name)
        self.exported_s = self.measured_s = 0.0

    def outcome(self) -> Tuned:
        """Runs the race."""
        racing = artifacts(self._spec)
        self.enter((self._usual, self._reference, *racing))
        for guest in {self._usual.name, self._reference.name} - {one.name for one in racing}:
            self._race.withdraw(guest)
        if not self._race.left:
            raise StmdeployError(
                "no configuration is left within the limits",
                f"loosen {_LIMITS}; what was found: {self._all_out()}",
                ExitCode.CANNOT_TELL,
            )
        for number in range(1, FEWEST_WAVES + 1):
            self.play(number)
            self._look(_SETTINGS_GAIN)
        if self._spec.race.settings:
            order = sorted(self._race.left, key=partial(standing, self._race))
            parents = [self._entries[name].candidate for name in order[:_MOST_PARENTS]]
            self.enter([v for parent in parents for v in variants(self._spec, parent)])
        self._look(1.0)
        ended_by = self._ended_by()
        while not ended_by:
            self.play(self._race.waves + 1)
            self._look(1.0)
            ended_by = self._ended_by()
        return self._told(ended_by)

    def enter(self, candidates: Iterable[Candidate]) -> None:
        """Lets into the race whoever can be made and keeps the limits."""
        begun = time.monotonic()
        new = self._making.make(candidates)
        self.exported_s += time.monotonic() - begun
        self._race.enter(entry.candidate.name for entry in new)
        for entry in new:
            if entry.out:
                self._race.withdraw(entry.candidate.name)

    def play(self, number: int) -> dict[Pair, float]:
        """One wave: a process of everyone that is left, and of those that all are compared with.

        Returns:
            The logarithm of one's cost over another's, of all pairs that can be compared.
        """
        names = self.players(number)
        wave = self._stored(number, names)
        if wave is None:
            begun = time.monotonic()
            self._progress.expect(len(names))
            self._progress.detail(f"wave {number}, {len(self._race.left)} left")
            given = self._measured(names, number)
            ran = [
                {n: one for n, one in block.items() if isinstance(one, ProcessRun)}
                for block in given
            ]
            failed = {
                n: Failure.of(one)
                for block in given
                for n, one in block.items()
                if isinstance(one, StmdeployError)
            }
            spent_s = time.monotonic() - begun
            wave = _Wave(spent_s=spent_s, blocks=tuple(ran), failures=failed)
            path = self._wave_path(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, wave.model_dump_json().encode())
        self.measured_s += wave.spent_s
        for name, failure in wave.failures.items():
            if name == self._usual.name:
                raise failure.error("the usual configuration: ")
            self._entries[name].out = ("failed", failure.message)
            self._race.withdraw(name)
        for name, run in wave.runs.items():
            self._entries[name].runs[number] = run
            self._check_memory(name, run)
        differences = self._differences(wave)
        self._race.add(differences)
        return differences

    def players(self, number: int) -> list[str]:
        """Who runs in a wave; the usual one in all, where not all can be alive at once."""
        guests = [self._usual.name]
        if not self._entries[self._reference.name].out:
            guests.append(self._reference.name)
        names = list(dict.fromkeys((*guests, *self._race.left)))
        if number > GUEST_WAVES and len(self._blocks(names)) == 1:
            return self._race.left
        return names

    def _wave_path(self, number: int) -> Path:
        return self._spec.folder / f"waves-{self._key()}" / f"{number:03}.json"

    def _key(self) -> str:
        """What a wave depends on beside its number: the question, artifacts, and this machine."""
        made = sorted({e.artifact.path.parent.name for e in self._entries.values()
                       if e.artifact is not None and not e.candidate.parent})  # fmt: skip
        spec = replace(self._spec, race=replace(self._spec.race, budget_s=1.0, most_waves=3))
        here = self._environment.model_copy(update={"load_average_1min": None})
        return short_hash((repr(spec), made, here.model_dump_json()))

    def _stored(self, number: int, names: Sequence[str]) -> _Wave | None:
        """A wave that was run before, of the same candidates."""
        with suppress(OSError, ValidationError):
            wave = _Wave.model_validate_json(self._wave_path(number).read_bytes())
            if {*wave.runs, *wave.failures} == {*names} and not wave.failures:
                return wave
        return None

    def _measured(
        self, names: Sequence[str], number: int
    ) -> list[dict[str, ProcessRun | StmdeployError]]:
        """A process of each: in blocks that fit into memory, by turns; or alone."""
        tasks = {name: self._task(self._entries[name], number) for name in names}
        turning = [name for name in names if tasks[name].row.run.by_turns]
        dice = random.Random(f"{self._spec.seed} {number}")
        found: list[dict[str, ProcessRun | StmdeployError]] = [
            {**in_turns({name: tasks[name] for name in block}, number, dice, self._progress)}
            for block in self._blocks(turning)
        ]
        for name in dice.sample(sorted({*names} - {*turning}), len(names) - len(turning)):
            try:
                found.append({name: one_process(tasks[name], self._progress)})
            except StmdeployError as error:
                found.append({name: error})
        return found

    def _blocks(self, names: Sequence[str]) -> list[list[str]]:
        uuid = self._spec.runs[0].gpu_uuid
        memory = {}
        for place, name in enumerate(names):
            made = self._entries[name].exported
            assert made is not None
            run = self._entries[name].candidate.run
            memory[place] = estimated(run, made.mib or 0.0, self._making.activations).by_place(uuid)
        found = blocks(range(len(names)), 0, memory, free_memory([uuid]))
        return [[names[place] for place in block] for block in found]

    def _task(self, entry: Entry, number: int) -> Task:
        spec = self._spec
        assert entry.artifact is not None
        entry.artifact.check()
        sampling = SamplingSpec(budget_s=spec.race.process_budget_s, processes=1)
        limits = ProcessLimits(sampling, spec.row_timeout_s, None)
        row = RowSpec(without_checkpoint(spec.model), entry.candidate.run)
        return Task(row, entry.artifact.path, limits, self._environment, spec.folder, number)

    def _check_memory(self, name: str, run: ProcessRun) -> None:
        most, entry = self._spec.max_memory_mib, self._entries[name]
        if most is not None and (held := _memory_mib(run, entry.candidate.run)) > most:
            entry.out = ("over a limit", f"holds {held:.0f} MiB")
            self._race.withdraw(name)

    def _differences(self, wave: _Wave) -> dict[Pair, float]:
        """The logarithm of one's cost over another's, of all pairs of a wave."""
        if self._spec.objective != LATENCY:
            costs = {name: self._cost(name, run) for name, run in wave.runs.items()}
            known = {name: cost for name, cost in costs.items() if cost}
            return {
                (one, other): math.log(known[one] / known[other])
                for one, other in combinations(known, 2)
            }
        found: dict[Pair, float] = {}
        for block in wave.blocks:
            taken = {name: next(iter(waves_of([run]).values())) for name, run in block.items()}
            found |= {
                (one, other): wave_difference(*compared(taken[one], taken[other]))
                for one, other in combinations(block, 2)
            }
        return found

    def _cost(self, name: str, run: ProcessRun) -> float | None:
        """What the objective is about, of one process; None, and it is out, if it is not known."""
        asked = self._entries[name].candidate.run
        images = run.burst_runs * asked.batch
        cost: float | None
        if self._spec.objective == MEMORY:
            cost = _memory_mib(run, asked)
        elif self._spec.objective == ENERGY:
            cost = run.energy_j / images if run.energy_j is not None and images else None
            if cost is None and name == self._usual.name:
                raise StmdeployError(
                    "this machine has no meter of energy", "take another --objective"
                )
        else:
            cost = run.burst_s / images if images else None
        if not cost:
            self._entries[name].out = ("failed", f"its {self._spec.objective} is not known")
            self._race.withdraw(name)
        return cost

    def _look(self, margin: float) -> None:
        if not self._race.left:
            raise StmdeployError(
                "every configuration failed", self._all_out(), ExitCode.WORKER_FAILED
            )
        for name in self._race.look(margin):
            self._progress.detail(f"dropped {name}")
        left, leader = len(self._race.left), self._race.leader
        ratio = self._race.ratio(leader, self._usual.name)
        told = f", {ratio.ratio:.3f} of the usual" if ratio else ""
        self._progress.warn(
            f"after wave {self._race.waves}: {counted(left, 'configuration')} left; {leader} "
            f"leads{told}"
        )

    def _ended_by(self) -> str:
        """Why the race is over; empty if it goes on."""
        race, within = self._spec.race, 1 + self._spec.race.within_percent / 100
        if len(self._race.left) == 1:
            return "all others were dropped"
        if self._race.surely_within() <= within:
            return f"the winner is surely within {race.within_percent:g} % of the best"
        if self._race.waves >= race.most_waves:
            return f"{race.most_waves} waves were run"
        if self.measured_s >= race.budget_s:
            return f"the budget of {race.budget_s:g} s was spent"
        return ""

    def _all_out(self) -> str:
        return "; ".join(f"{n}: {e.out[1]}" for n, e in self._entries.items() if e.out)[:2000]

    def _told(self, ended_by: str) -> Tuned:
        return told(
            self._spec,
            self._race,
            self._entries,
            usual=self._usual.name,
            reference=self._reference.name,
            here=self._environment,
            ended_by=ended_by,
            measured_s=self.measured_s,
            exported_s=self.exported_s,
            started_utc=self._started,
        )


def _memory_mib(run: ProcessRun, asked: RunSpec) -> float:
    """Of the host; on a GPU that of the GPU, where it is known."""
    if asked.device == "cuda" and run.device_memory_peak_mib:
        return run.device_memory_peak_mib
    return run.memory_peak_mib
