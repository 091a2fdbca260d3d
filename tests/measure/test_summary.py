"""From processes to a row's figures, and when a row is measured enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmdeploy.measure.summary import longest_row_s, summarize, wants_more
from stmdeploy.schema.hardware import Conditions
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.spec.run import RunSpec, SamplingSpec, ScenarioSpec

MakeProcess = Callable[..., ProcessRun]
RUN, SPEC = RunSpec("fake", 4, 2), SamplingSpec(budget_s=3.0, processes=3)


def test_figures_of_known_processes(make_process: MakeProcess) -> None:
    processes = [
        make_process(samples_ms=(10.0,) * 50, load_ms=1.0, memory_peak_mib=100.0, energy_j=2.0),
        make_process(samples_ms=(10.0,) * 50, load_ms=9.0, memory_peak_mib=300.0, energy_j=4.0),
        make_process(samples_ms=(10.0,) * 50, load_ms=5.0, memory_peak_mib=200.0, energy_j=6.0),
    ]
    m = summarize(processes, RUN, SPEC)
    assert (m.latency_ms_p50_low, m.latency_ms_p50, m.latency_ms_p50_high) == pytest.approx(
        (10.0,) * 3
    )
    assert m.throughput_images_s == pytest.approx(400.0)
    assert (m.load_ms, m.memory_peak_mib) == (5.0, 300.0)
    assert m.energy_j_per_image == pytest.approx(12.0 / 600)
    assert (m.processes, m.samples) == (3, 150)
    assert m.latency_ms_p90 == 10.0
    assert m.latency_ms_p99 is None
    assert m.steady
    assert m.advice == ()


def test_energy_that_one_process_could_not_read_is_absent(make_process: MakeProcess) -> None:
    processes = [make_process(energy_j=2.0), make_process(energy_j=None)]
    assert summarize(processes, RUN, SPEC).energy_j_per_image is None


def test_throughput_in_flight_is_over_the_window(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=(10.0,) * 200, window_s=1.0)
    m = summarize([process], RunSpec("fake", 4, 2, in_flight=2), SPEC)
    assert m.throughput_images_s == pytest.approx(800.0)
    assert m.latency_with_copies_ms_p50 is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"warmup_ended_by": "limit"}, "raise --warmup-limit-s"),
        ({"load_average_1min": 7.0}, "the machine was busy"),
        ({"after": Conditions(gpu_throttle_reasons=("SwThermalSlowdown",))}, "throttled"),
        ({"before": Conditions(gpu_processes=3)}, "other processes use the GPU"),
        (
            {
                "before": Conditions(cpu_throttle_events=4),
                "after": Conditions(cpu_throttle_events=5),
            },
            "throttled",
        ),
    ],
)
def test_what_is_unsteady_is_said(
    make_process: MakeProcess, changes: dict[str, object], says: str
) -> None:
    m = summarize([make_process(samples_ms=(10.0,) * 50, **changes)], RUN, SPEC)
    assert not m.steady
    assert any(says in line for line in m.advice)


def test_processes_that_differ_are_said(make_process: MakeProcess) -> None:
    processes = [make_process(samples_ms=(ms,) * 50) for ms in (10.0, 12.0, 10.0)]
    advice = " ".join(summarize(processes, RUN, SPEC).advice)
    assert "processes differ" in advice
    assert "raise --budget-s" in advice


def test_a_row_has_its_processes(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=(10.0,) * 50)
    assert wants_more([], RUN, SPEC)
    assert wants_more([process] * 2, RUN, SPEC)
    assert not wants_more([process] * 3, RUN, SPEC)


def test_more_processes_while_the_interval_is_wide_and_the_budget_lasts(
    make_process: MakeProcess,
) -> None:
    apart = [make_process(samples_ms=(ms,) * 50) for ms in (8.0, 10.0, 12.0)]  # 1.5 of 3 s
    assert wants_more(apart, RUN, SPEC)
    assert not wants_more([*apart, *apart], RUN, SPEC)


def test_loadgen_decides_for_itself(make_process: MakeProcess) -> None:
    run = RunSpec("fake", 4, 2, scenario=ScenarioSpec("offline"))
    assert wants_more([], run, SPEC)
    assert not wants_more([make_process()], run, SPEC)


def test_processes_of_a_fast_model_end_within_what_a_plan_promises(
    make_process: MakeProcess,
) -> None:
    """0.06 ms an inference: every process meets its own target at once, and they differ."""
    processes: list[ProcessRun] = []
    while wants_more(processes, RUN, SPEC):
        slow = 1.5 if len(processes) % 2 else 1.0
        processes.append(
            make_process(samples_ms=(0.06 * slow,) * 64, window_s=0.004, runtime_import_ms=60.0)
        )
        assert len(processes) < 50
    assert len(processes) > SPEC.processes, "some more are tried"
    assert 0.5 * len(processes) <= longest_row_s(SPEC) == 3 * (1 + 3 + 3)
