"""Where the time of an inference goes, as each runtime's own profiler reports it.

A runtime's graph is not the exported one: nodes are fused, split and renamed. A node belongs to
the part of the exported node whose name it carries or whose output it writes; a node that the
runtime added, to the part of what it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.runner import Inputs
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.schema.onnx_files import PART_NOTE
from stmdeploy.spec.run import RunSpec

from .onnx_graph import graph_of, notes_of, part_of
from .ort_providers import provider_of
from .ort_session import session_options

Inferences = tuple[tuple[OperatorTime, ...], ...]
#: The hint for a runtime that has no such profiler.
OTHERS = "take --runtime onnxruntime, openvino, torch or tensorrt"
#: Inferences thrown away before those that are reported.
_WARM_RUNS = 3
#: Stands between part and name in the name of an OpenVINO node or a TensorRT layer.
PART_MARK = " | "
_PART = re.compile(r"(stage \d+ \w+|stem|head|top level)$")
#: The suffix of ONNX Runtime's nodes that keep channels in blocks.
_BLOCKED = "_nchwc"
_RANGE = "stmdeploy:"
_US_PER_MS = _MS_PER_S = 1000.0


def of_onnxruntime(path: Path, run: RunSpec, inputs: Inputs, repeats: int) -> Inferences:
    """Profiles with ONNX Runtime; slower than a plain run, because every node is timed.

    Raises:
        StmdeployError: on a GPU, where its profiler times only the launch of kernels.
    """
    if run.device != "cpu":
        raise StmdeployError("onnxruntime does not report where its time goes on a GPU", OTHERS)
    import onnxruntime as ort

    with scratch_folder("profile") as folder:
        options = session_options(run)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        session = ort.InferenceSession(
            path, options, providers=provider_of(run, path), enable_fallback=0
        )
        given = {one.name: x for one, x in zip(session.get_inputs(), inputs, strict=True)}
        for _ in range(_WARM_RUNS + repeats):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        parts = _parts(graph_of(path), graph_of(Path(options.optimized_model_filepath)))
    inferences = [
        tuple(
            OperatorTime(
                name=event["args"].get("node_name") or event["name"].removesuffix("_kernel_time"),
                operator=event["args"]["op_name"],
                part=parts.get(event["name"].removesuffix("_kernel_time"), "other"),
                start_ms=(event["ts"] - whole["ts"]) / _US_PER_MS,
                duration_ms=event["dur"] / _US_PER_MS,
            )
            for event in events
            if event["name"].endswith("_kernel_time")
            and whole["ts"] <= event["ts"] < whole["ts"] + whole["dur"]
        )
        for whole in (event for event in events if event["name"] == "model_run")
    ]
    return tuple(inferences[-repeats:])


def _parts(exported: Any, optimized: Any) -> dict[str, str]:
    """The part of every node of the optimised graph, by its name."""
    known: dict[str, str] = {}
    for node in exported.node:
        part = notes_of(node).get(PART_NOTE)
        for name in (*node.output, node.name) if part else ():
            known[name] = part or ""
    written: dict[str, str] = {}
    parts: dict[str, str] = {}
    for node in optimized.node:
        names = [name.removesuffix(_BLOCKED) for name in (*node.output, node.name)]
        part = next((known[name] for name in names if name in known), "")
        part = part or next((written[name] for name in node.input if name in written), "other")
        written.update(dict.fromkeys(node.output, part))
        parts[node.name] = part
    return parts


def parts_of(path: Path) -> dict[str, str]:
    """The part of every node of an exported ONNX file, by its name and by its outputs'."""
    graph = graph_of(path)
    parts = _parts(graph, graph)
    outputs = {name: parts[node.name] for node in graph.node for name in node.output}
    return {**outputs, **parts}


def nodes_of_parts(path: Path, parts: Iterable[str]) -> list[str]:
    """The names of an exported ONNX file's nodes that belong to some parts.

    Raises:
        StmdeployError: the model has no such part.
    """
    by_node = parts_of(path)
    nodes = [node.name for node in graph_of(path).node]
    known = {by_node[name] for name in nodes}
    for part in parts:
        if part not in known:
            raise StmdeployError(f"the model has no part {part!r}", nearest(part, sorted(known)))
    wanted = set(parts)
    return [name for name in nodes if by_node[name] in wanted]


def name_by_part(model: Any, graph: Path) -> None:
    """Prefixes every node's name with its part, in an OpenVINO model made from an ONNX graph."""
    known = parts_of(graph)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if part := known.get(name) or known.get(name.partition("/")[0]):
            node.set_friendly_name(f"{part}{PART_MARK}{name}")


def _noted(name: str) -> tuple[str, str]:
    """Splits a name into its part and the rest; the runtime may have put words before the part."""
    before, mark, rest = name.partition(PART_MARK)
    found = _PART.search(before) if mark else None
    return (found.group(), rest) if found else ("other", name)


def _warm(inference: Callable[[], tuple[OperatorTime, ...]], repeats: int) -> Inferences:
    """The operators of so many inferences, after `_WARM_RUNS` that are thrown away."""
    for _ in range(_WARM_RUNS):
        inference()
    return tuple(inference() for _ in range(repeats))


def _in_order(told: Iterable[tuple[str, str, str, float]]) -> tuple[OperatorTime, ...]:
    """Operators that ran one after another, each given as part, name, kind and milliseconds."""
    times, at_ms = [], 0.0
    for part, name, operator, duration_ms in told:
        times.append(
            OperatorTime(
                name=name, operator=operator, part=part, start_ms=at_ms, duration_ms=duration_ms
            )
        )
        at_ms += duration_ms
    return tuple(times)


def of_openvino(request: Any, repeats: int) -> Inferences:
    """Profiles with OpenVINO's counters; the request's model is compiled with ``PERF_COUNT``."""

    def inference() -> tuple[OperatorTime, ...]:
        request.infer()
        return _in_order(
            (*_noted(info.node_name), info.node_type, info.real_time.total_seconds() * _MS_PER_S)
            for info in request.get_profiling_info()
            if info.real_time
        )

    return _warm(inference, repeats)


def of_tensorrt(trt: Any, runner: Any, repeats: int) -> Inferences:
    """Profiles with TensorRT, layer by layer; a fused layer belongs to its first part."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.told: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.told.append((layer_name, ms))

    profiler = Profiler()
    runner.context.profiler = profiler

    def inference() -> tuple[OperatorTime, ...]:
        profiler.told.clear()
        runner.run()
        return _in_order((_noted(layer)[0], layer, "layer", ms) for layer, ms in profiler.told)

    return _warm(inference, repeats)


def of_torch(module: Any, inputs: Any, device: str, repeats: int) -> Inferences:
    """Profiles eager torch: operators under the module that calls them; on a GPU, the durations
    are those of the kernels, and modules are NVTX ranges for NVIDIA's own profilers."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    names = {part: name for name, part in module.named_modules()}
    opened = []

    def enter(part: Any, *_: Any) -> None:
        opened.append(record_function(_RANGE + names[part]))
        opened[-1].__enter__()  # type: ignore[no-untyped-call]
        if device == "cuda":
            torch.cuda.nvtx.range_push(names[part])  # type: ignore[no-untyped-call]

    def leave(*_: Any) -> None:
        if device == "cuda":
            torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]
        opened.pop().__exit__(None, None, None)

    activities = [ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(ProfilerActivity.CUDA)

    def inference() -> tuple[OperatorTime, ...]:
        with torch.inference_mode(), profile(activities=activities) as profiler:
            module(inputs)
            if device == "cuda":
                torch.cuda.synchronize()
        return _torch_times(profiler.events() or [], device)

    with ExitStack() as hooks:
        for part in names:
            hooks.enter_context(part.register_forward_pre_hook(enter))
            hooks.enter_context(part.register_forward_hook(leave))
        return _warm(inference, repeats)


def _torch_times(events: Any, device: str) -> tuple[OperatorTime, ...]:
    """The operators that modules call directly, with the time of all that these call in turn."""
    times = []
    begin = min((event.time_range.start for event in events), default=0)
    for event in events:
        parent = event.cpu_parent
        if event.name.startswith(_RANGE) or parent is None or not parent.name.startswith(_RANGE):
            continue
        scopes: list[str] = []
        while parent is not None:
            if parent.name.startswith(_RANGE):
                scopes.insert(0, parent.name.removeprefix(_RANGE))
            parent = parent.cpu_parent
        duration_us = event.device_time_total if device == "cuda" else event.cpu_time_total
        times.append(
            OperatorTime(
                name=scopes[-1] or "top level",
                operator=event.name.removeprefix("aten::"),
                part=part_of([*scopes, ""]),
                start_ms=(event.time_range.start - begin) / _US_PER_MS,
                duration_ms=duration_us / _US_PER_MS,
            )
        )
    return tuple(times)
