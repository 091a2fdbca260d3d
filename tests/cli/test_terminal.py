"""Tables on terminals of 80, 120 and 160 columns: every row says what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from typer.main import get_command

from stmdeploy.backbones.catalogue import list_backbones
from stmdeploy.backbones.complexity import Complexity
from stmdeploy.check.bundle import Baseline, BaselineRow, MachineKey
from stmdeploy.check.formats.table import baseline_table, check_table
from stmdeploy.cli.main import app, main
from stmdeploy.hardware.profiles import find_profiles, peaks_of, profiles
from stmdeploy.measure.steps import steps
from stmdeploy.report.accuracy import evaluation_table
from stmdeploy.report.bounds import Processor, Workload, bound_table, bounds_of
from stmdeploy.report.fitting import fit
from stmdeploy.report.history import History, history_table
from stmdeploy.report.invariance import invariance_table
from stmdeploy.report.layers import layers_table
from stmdeploy.report.profile_table import profile_table
from stmdeploy.report.receptive_field import receptive_field_table
from stmdeploy.report.sensitivity import sensitivity_table
from stmdeploy.report.tables import count_table
from stmdeploy.report.text_table import TextTable
from stmdeploy.report.tuned import tuned_table
from stmdeploy.results.state import DONE
from stmdeploy.results.store import Store
from stmdeploy.schema.invariance import Curve, Estimate, Invariance, Level
from stmdeploy.schema.manifest import Operation
from stmdeploy.schema.mixed import Kept, PartCost, Sensitivity
from stmdeploy.schema.receptive_field import ReceptiveField, StageField
from stmdeploy.schema.row import Row
from tests.check.test_formats import result, row
from tests.cli.terminal import print_in_terminal, run_in_terminal
from tests.exporters.test_operator_times import INFERENCES
from tests.fakes import evaluation
from tests.foreign import SIZED, write_two_inputs
from tests.report.test_tuned import RACES

MakeRow = Callable[..., Row]
FIVE = [f"unified_{name}_micro" for name in ("halo", "pvt", "swin", "convnext", "dcn_v3")]
MODELS = ("unified_dcn_v3_micro", "unified_convnext_micro")
SETTINGS = [
    (model, runtime, precision, batch)
    for model in MODELS
    for runtime in ("onnxruntime", "torch-compile")
    for precision in ("fp32", "int8-dynamic")
    for batch in (1, 128)
]
SWEEP = "20260101-000000-abcdef"
widths = pytest.mark.parametrize("width", [80, pytest.param(120, marks=pytest.mark.nightly), 160])


@pytest.fixture
def folder(tmp_path: Path, make_row: MakeRow) -> Path:
    """The working folder, with a store of rows that differ in many ways."""
    (tmp_path / "stmdeploy-results").mkdir()
    store = Store(tmp_path / "stmdeploy-results", create=True)
    store.add_sweep(SWEEP, "{}", [(f"k{i}", "S") for i in range(len(SETTINGS))])
    for i, (model, runtime, precision, batch) in enumerate(SETTINGS):
        row = make_row(model=model, runtime=runtime, precision=precision, batch=batch)
        assert row.measurement is not None
        figures = {"latency_ms_p50": 10.0 + i, "steady": False, "advice": ("raise --budget-s",)}
        measurement = row.measurement.model_copy(update=figures)
        store.save_row(SWEEP, i, row.model_copy(update={"measurement": measurement}), DONE)
    store.close()
    return tmp_path


def check(lines: Sequence[str], width: int, keys: Sequence[str]) -> None:
    """No line is too wide, nothing is cut, and the cells of each key are whole, side by side."""
    assert max(map(cell_len, lines)) <= width
    assert not any("…" in line for line in lines)
    for key in keys:
        cells = r" +".join(map(re.escape, key.split(" | ")))
        assert any(re.search(rf"(?<!\S){cells}(?!\S)", line) for line in lines), key


COMMANDS = {
    "list": ([], list_backbones()),
    "list targets": ([], ["onnx", "tensorrt-rtx", "torch"]),
    "hardware list": ([], list(profiles())),
    "hardware show": (["a100"], ["compute capability", "tensor cores, int8, dense | 624 TFLOPS"]),
    "hardware detect": ([], ["processor"]),
    "profile": (["--dry-run"], [f"{name} | {batch}" for name in FIVE for batch in (1, 8)]),
    "results list": ([], [SWEEP]),
    "results show": ([], [" | ".join(map(str, key)) for key in SETTINGS]),
    "recommend": (
        ["--device", "Test CPU"],
        [f"choice | {MODELS[0]} | onnxruntime | fp32 | 1", f"runner-up | {MODELS[0]}"],
    ),
}


@widths
@pytest.mark.parametrize("command", COMMANDS)
def test_every_row_says_what_it_is(command: str, width: int, folder: Path) -> None:
    arguments, keys = COMMANDS[command]
    check(run_in_terminal(width, [*command.split(), *arguments], folder), width, keys)


@pytest.mark.slow
@widths
def test_inspect_shows_what_a_file_is(width: int, tmp_path: Path) -> None:
    """Of a file that somebody made elsewhere, whose name is long."""
    path = write_two_inputs(tmp_path / "a_detector_of_cameras_for_the_front_of_the_car.onnx")
    shown = run_in_terminal(width, ["inspect", path.name, "--input", SIZED], tmp_path)
    check(shown, width, ["state | not verified", "Conv", "input | photo, batchx3x64x96, float32"])


@pytest.mark.slow
@widths
def test_count(width: int, tmp_path: Path) -> None:
    arguments = ["count", "--stm", "dcn,pvt", "--scale", "micro", "--image-size", "32"]
    shown = run_in_terminal(width, arguments, tmp_path)
    check(shown, width, ["unified_dcn_v3_micro 32x32 | 4.303", "unified_pvt_micro 32x32 | 4.264"])


def counted(_: Row) -> TextTable:
    kinds = dict.fromkeys(("stem", "downsample", "mixer", "mlp", "norm", "head", "other"), 95_000)
    cost = Complexity(
        4_302_692, 665_000, 636_000, kinds, {}, {}, 9_000, {"gelu": 32}, {"permute": 108}
    )
    return count_table([(name, cost) for name in FIVE])


def bounds(_: Row) -> TextTable:
    product = Operation(operator="Gemm", part="head", nodes=1, macs=10**9, weight_elements=10**6,
                        activation_elements=10**6)  # fmt: skip
    processors = [
        Processor(p.name, p.title, (1, 128), ("fp32", "fp16"), peaks_of(p))
        for name in ("a100", "t4")
        for p in find_profiles(name)
    ]
    return bound_table(bounds_of([Workload(name, (product,)) for name in FIVE], processors, (), ()))


def baseline(measured: Row) -> TextTable:
    rows = tuple(
        BaselineRow(name=name, spec="", artifact="a.onnx", workload="b.onnx",
                    runtime_version="1.32.0", row=measured, calibrated=(0.1,), outputs=())
        for name in ROW_NAMES
    )  # fmt: skip
    machine = MachineKey(processor="CPU", cores=2, gpu="", driver="", power_limit_w=None)
    return baseline_table(
        Baseline(created_utc="2026-01-01T00:00:00", sweep=SWEEP, sweep_spec="", machine=machine,
                 environment=measured.environment, rows=rows, files=())
    )  # fmt: skip


def checked(_: Row) -> TextTable:
    return check_table(result(*(row("regression", name=name) for name in ROW_NAMES)))


def evaluations(measured: Row) -> TextTable:
    another = evaluation(measured, 71.0).model_copy(update={"data": "another"})
    return evaluation_table([evaluation(measured, 70.0), another])


def layers(_: Row) -> TextTable:
    return layers_table(f"{FIVE[0]}, onnxruntime fp32, batch 1", INFERENCES)


def races(_: Row) -> TextTable:
    return tuned_table(RACES[0])


def over_time(_: Row) -> TextTable:
    figures = tuple(10.0 + (i >= 8) for i in range(16))
    times = tuple(f"2026-01-{i + 1:02}T00:00:00" for i in range(16))
    return history_table(
        [
            History(name=name, machine="Some Processor", sweeps=(SWEEP,) * 16, times=times,
                    figures=figures, unit="ms", steps=tuple(steps(figures)))
            for name in ROW_NAMES
        ],
        3.0,
    )  # fmt: skip


def fields(_: Row) -> TextTable:
    stages = tuple(
        StageField(stage=i, stride=4 << i, sides_px={"20": 9.0, "30": 20.0, "50": 40.0, "99": 99.0})
        for i in range(1, 5)
    )
    return receptive_field_table(
        [
            ReceptiveField(model=name, stm="dcn", scale="micro", task="classification",
                           weights="synthetic", weights_sha256="0" * 64, image_size=(224, 224),
                           data="random", images=8, contribution="absolute", stages=stages,
                           created_utc="2026-01-01T00:00:00")
            for name in FIVE
        ]
    )  # fmt: skip


def parts(_: Row) -> TextTable:
    kept = Kept(relative_l2_error=0.01, agreement_percent=99.5, top1_drop_percent=0.1)
    told = tuple(PartCost(part=f"stage {i} mixer", kept=kept, fp32_ms=2.0, low_ms=1.0)
                 for i in range(1, 5))  # fmt: skip
    return sensitivity_table(
        [
            Sensitivity(model=name, weights="synthetic", weights_sha256="0", image_size=(224, 224),
                        target="onnx", precision="int8", lowering="tokens", runtime="onnxruntime",
                        data="random", calibrating=8, images=64, together=kept, parts=told)
            for name in FIVE
        ]
    )  # fmt: skip


def views(measured: Row) -> TextTable:
    some = Estimate(value=90.0, low=88.0, high=92.0)
    levels = tuple(
        Level(level=i, consistency=some, cross_entropy=some, top1=some, top5=some) for i in range(3)
    )
    curves = tuple(
        Curve(transform=name, unit="px", area=some, area_more_than_fp32=some, levels=levels)
        for name in ("translation", "rotation")
    )
    return invariance_table(
        [
            Invariance(artifact_sha256="0" * 64, model=name, weights="checkpoint",
                       weights_sha256="0" * 64, image_size=(224, 224), precision="int8-dynamic",
                       runtime="onnxruntime", runtime_version="1", provider="CPU", data="val",
                       data_sha256="0" * 64, images=100, skipped=0, waiting_percent=0.0,
                       created_utc="2026-01-01T00:00:00", environment=measured.environment,
                       stm="dcn", scale="micro", protocol="clean", seed=0, consistency=some,
                       consistency_more_than_fp32=some, curves=curves)
            for name in FIVE
        ]
    )  # fmt: skip


ROW_NAMES = [f"{name}/onnxruntime/fp32/batch8" for name in FIVE]
PRINTED: list[tuple[Callable[[Row], TextTable], list[str]]] = [
    (counted, [f"{name} | 4.303" for name in FIVE]),
    (bounds, [f"{name} | a100-80gb | fp16 | 128" for name in FIVE]),
    (baseline, [f"{name} | 10.0" for name in ROW_NAMES]),
    (checked, [f"{name} | regression" for name in ROW_NAMES]),
    (evaluations, [f"{MODELS[0]} | fp32 | onnxruntime | {data}" for data in ("val", "another")]),
    (races, ["best", RACES[0].candidates[0].runtime]),
    (over_time, [f"{name}" for name in ROW_NAMES]),
    (fields, [f"{name} | {stage}" for name in FIVE for stage in (1, 4)]),
    (parts, [f"{name} | int8 | stage {i} mixer" for name in FIVE for i in (1, 4)]),
    (views, [f"{name} | int8-dynamic | onnxruntime | rotation" for name in FIVE]),
    (layers, ["part | stage 1 mixer | 3.00 | 30.0", "operator | Gemm | 7.00 | 70.0"]),
]


@widths
@pytest.mark.parametrize(("table", "keys"), PRINTED)
def test_rows_of_what_takes_long_say_what_they_are(
    table: Callable[[Row], TextTable], keys: list[str], width: int, make_row: MakeRow
) -> None:
    check(print_in_terminal(width, table(make_row())), width, keys)


def test_rows_stack_where_names_are_too_long(make_row: MakeRow) -> None:
    name = "my_package.my_experiments.my_newest_backbones:a_variant_with_a_long_name"
    table = profile_table([make_row(model=name, batch=batch) for batch in (1, 8)])
    keys = [name, "batch | 1", "batch | 8", "latency ms | 10.0", "peak MiB | 150"]
    shown = print_in_terminal(80, table)
    check(shown, 80, keys)
    assert not any("Not shown" in line for line in shown)


@pytest.mark.parametrize("command", ["list", "hardware list", "results list", "results show"])
def test_what_is_left_out_is_in_a_pipe_and_in_json(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = " ".join(run_in_terminal(72, command.split(), folder))
    found = re.search(r"Not shown for want of room: (.+?)\. A wider terminal", narrow)
    assert found
    monkeypatch.chdir(folder)
    assert main(command.split()) == 0
    piped = capsys.readouterr().out
    assert all(header in piped.split("─")[0] for header in found[1].split(", "))
    assert "Not shown" not in piped
    assert main([*command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_whatever_prints_a_table_takes_json() -> None:
    found = dict(_commands(get_command(app)))
    without = {name for name, flags in found.items() if "--json" not in flags}
    assert without == {"results export", "results merge", "results prune"}


def _commands(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command with its flags."""
    for word, one in getattr(command, "commands", {}).items():
        yield from _commands(one, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, {flag for parameter in command.params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("width", "figures"),
    [
        (80, ["latency ms", "95 % interval", "top-1 %", "images/s"]),
        (120, ["latency ms", "95 % interval", "top-1 %", "images/s", "efficiency %", "peak MiB"]),
    ],
)
def test_what_matters_most_is_shown(width: int, figures: list[str], make_row: MakeRow) -> None:
    table = profile_table([make_row(model=name, batch=n) for name in FIVE for n in (1, 8)])
    found = fit(table, width)
    shown = [table.headers[i] for i in found.columns]
    assert shown[:2] == ["backbone", "batch"]
    assert set(figures) <= set(shown)


def test_a_pipe_has_a_line_a_row_and_a_line_a_note(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["results", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(MODELS) for line in lines) == len(SETTINGS)
    (told,) = (line for line in lines if line.startswith("~ "))
    assert told == f"~ raise --budget-s: all {len(SETTINGS)} rows"
    assert main(["recommend", "--device", "Test CPU"]) == 0
    shown = capsys.readouterr().out
    assert "the most accurate and the fastest" in shown
    assert "75.3 (published)" in shown
