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
        make_process(samples_ms=(10.0,) * 90, load_ms=5.0, memory_peak_mib=200.0, energy_j=6.0),
    ]
    m = summarize(processes, RUN)
    assert (m.latency_ms_p50_low, m.latency_ms_p50, m.latency_ms_p50_high) == pytest.approx(
        (10.0,) * 3
    )
    assert m.throughput_images_s == pytest.approx(400.0)
    assert (m.load_ms, m.memory_peak_mib) == (5.0, 300.0)
    assert m.energy_j_per_image == pytest.approx(12.0 / 36), "of the bursts"
    assert (m.processes, m.samples) == (3, 190)
    assert m.latency_ms_p90 == 10.0
    assert m.latency_ms_p99 is None
    assert m.steady
    assert m.advice == ()


def test_two_processes_that_tell_nothing_make_a_row(make_process: MakeProcess) -> None:
    """One of two was held up, so Student's t of one degree of freedom reaches beyond all bounds."""
    processes = [make_process(samples_ms=(latency,) * 100) for latency in (1.0, 4e6)]
    row = summarize(processes, RUN)
    assert row.latency_ms_p50_high > 1e12


def test_energy_of_two_meters_is_not_added_up(make_process: MakeProcess) -> None:
    processes = [
        make_process(samples_ms=(10.0,) * 50, energy_j=2.0, energy_source=meter)
        for meter in ("nvml", "rapl")
    ]
    m = summarize(processes, RunSpec("onnxruntime", 8, 2))
    assert (m.energy_j_per_image, m.energy_source) == (None, "")


def test_a_row_that_the_host_bounds_says_so(make_process: MakeProcess) -> None:
    """Where enqueuing takes 90 % of the time on the device, or more."""
    for enqueue_ms, bound in ((0.95, True), (0.5, False)):
        one = make_process(samples_ms=(1.1,) * 50, device_ms=(1.0,) * 5,
                           enqueue_ms=(enqueue_ms,) * 5, throttled_turns=1)  # fmt: skip
        m = summarize([one], RunSpec("torch", 1, 1, "cuda"))
        assert (m.enqueue_ms_p50, m.bound_by_host) == (enqueue_ms, bound)
        assert m.throttled_turns == 1
        assert any("held back in 1 of" in told for told in m.advice)


def test_energy_that_one_process_could_not_read_is_absent(make_process: MakeProcess) -> None:
    processes = [make_process(energy_j=2.0), make_process(energy_j=None)]
    assert summarize(processes, RUN).energy_j_per_image is None


def test_every_process_weighs_the_same(make_process: MakeProcess) -> None:
    """However many samples it has; and one disturbed process of three does not move the row."""
    few, many = make_process(samples_ms=(10.0,)), make_process(samples_ms=(14.0,) * 99)
    assert summarize([few, many], RUN).latency_ms_mean == pytest.approx(12.0)
    disturbed = [make_process(samples_ms=(ms,) * 50) for ms in (47.0, 47.7, 82.9)]
    m = summarize(disturbed, RUN)
    assert m.latency_ms_p50 == 47.7
    assert m.latency_ms_p50_high > 82.9


def test_percentiles_have_intervals_over_processes(make_process: MakeProcess) -> None:
    series = [tuple(base + i / 10 for i in range(111)) for base in (10, 11, 12, 13, 14, 15)]
    m = summarize([make_process(samples_ms=one) for one in series], RUN)
    assert (m.latency_ms_p90_low, m.latency_ms_p90, m.latency_ms_p90_high) == pytest.approx(
        (19.9, 22.4, 24.9)
    )
    assert m.latency_ms_p99 == pytest.approx(23.39)
    few = [make_process(samples_ms=series[0][:9])] * 9
    assert summarize(few, RUN).latency_ms_p90 is None, "81 samples, nine of each process"


def test_a_gain_too_slow_for_the_warm_up_is_seen(make_process: MakeProcess) -> None:
    """Each turn a third of a per cent faster than the one before, in every process."""
    turns = (5,) * 8
    gains = tuple(100.0 * 0.9967 ** (i // 5) + i % 5 / 10 for i in range(40))
    slow = [make_process(samples_ms=gains, turns=turns)] * 6
    assert "still got faster" in " ".join(summarize(slow, RUN).advice)
    flat = [make_process(samples_ms=(100.0, 101.0) * 20, turns=turns)] * 6
    assert summarize(flat, RUN).advice == ()


def test_throughput_is_of_what_ran_back_to_back(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=(10.0,) * 200, burst_runs=200, burst_s=1.0)
    m = summarize([process], RunSpec("fake", 4, 2, in_flight=2))
    assert m.throughput_images_s == pytest.approx(800.0)
    assert m.latency_with_copies_ms_p50 is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"warmup_ended_by": "limit"}, "raise --warmup-limit-s"),
        ({"load_average_1min": 7.0}, "the machine was busy"),
        ({"after": Conditions(gpu_throttle_reasons=("SwThermalSlowdown",))}, "throttled"),
        ({"before": Conditions(gpu_processes=3), "alive": 2}, "other processes use the GPU"),
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
    m = summarize([make_process(samples_ms=(10.0,) * 50, **changes)], RUN)
    assert not m.steady
    assert any(says in line for line in m.advice)


def test_processes_that_differ_are_said(make_process: MakeProcess) -> None:
    processes = [make_process(samples_ms=(ms,) * 50) for ms in (10.0, 12.0, 10.0)]
    advice = " ".join(summarize(processes, RUN).advice)
    assert "processes differ" in advice


def test_a_row_has_its_processes(make_process: MakeProcess) -> None:
    process = make_process(samples_ms=(10.0,) * 50)
    assert wants_more([], RUN, SPEC)
    assert wants_more([process] * 2, RUN, SPEC)
    assert not wants_more([process] * 3, RUN, SPEC)


def test_loadgen_decides_for_itself(make_process: MakeProcess) -> None:
    run = RunSpec("fake", 4, 2, scenario=ScenarioSpec("offline"))
    assert wants_more([], run, SPEC)
    assert not wants_more([make_process()], run, SPEC)


def test_a_plan_promises_the_time_of_the_processes() -> None:
    assert longest_row_s(SPEC) == 3 * (5 * 1 + 3 + 3), "where others never leave a turn alone"
