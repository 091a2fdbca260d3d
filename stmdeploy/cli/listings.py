"""What `list` and `hardware` show, each as plain entries for JSON and as a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from stmdeploy.backbones.catalogue import STRIDES, list_backbones, resolve
from stmdeploy.report.text_table import ABSENT, TextTable
from stmdeploy.spec.model import CLASSIFICATION, DETECTION

if TYPE_CHECKING:
    from stmdeploy.artifacts.promises import Promise
    from stmdeploy.hardware.profiles import CpuProfile, Profile

Listed = tuple[list[dict[str, Any]], TextTable]


#: Published figures by task: their fields in the catalogue, and headings.
_PUBLISHED = {
    CLASSIFICATION: {"top1_percent": "top-1 %"},
    DETECTION: {"box_ap_percent": "box AP", "mask_ap_percent": "mask AP"},
}


def backbones(task: str) -> Listed:
    """Every backbone that has a form for a task, with its geometry and that form's published
    accuracy."""
    configs = [resolve(name) for name in list_backbones()]
    if task == DETECTION:
        configs = [config for config in configs if config.detection]
    accuracies = _PUBLISHED[task]
    headers = ("name", "stm", "scale", "mixer", "depths", "dims", "sides, px", *accuracies.values())
    entries, cells = [], []
    for config in configs:
        given = asdict(config)
        published = given["published"] or {}
        step = config.image_side_step_px if task == CLASSIFICATION else STRIDES[-1]
        figures = {name: published[name] for name in accuracies if name in published}
        entries.append(
            {**given, "task": task, "image_side_step_px": step, "published": figures or None}
        )
        geometry = (" ".join(map(str, config.depths)), " ".join(map(str, config.dims)))
        shown = (f"{figures[name]:.1f}" if figures else ABSENT for name in accuracies)
        cells.append(
            (config.name, config.stm, config.scale, config.mixer, *geometry, f"n x {step}", *shown)
        )
    least = ("mixer", "mask AP", "dims", "depths", "sides, px")
    return entries, TextTable(
        headers,
        tuple(cells),
        left=6,
        notes=_ACCURACY_NOTES[task],
        drop_first=tuple(name for name in least if name in headers),
        wrap=("mixer",),
    )


_ACCURACY_NOTES = {
    CLASSIFICATION: (
        "top-1 is on ImageNet-1k at 224 px, published by the authors.",
        "The detection backbones, which are other networks, with their AP: stmdeploy list --task "
        "detection.",
    ),
    DETECTION: (
        "Box and mask AP are on COCO, of Mask R-CNN (1x schedule) with this backbone at up to "
        "800x1344, published by the authors.",
    ),
}


def targets() -> Listed:
    """Every export target, its runtimes, and whether it can be used here."""
    from stmdeploy.artifacts.promises import promises
    from stmdeploy.plugins.registry import exporters

    promised: dict[str, list[str]] = {name: [] for name in exporters()}
    for p in promises():
        if p.claim != "no" and p.precision not in promised[p.target]:
            promised[p.target].append(p.precision)
    entries: list[dict[str, Any]] = [
        {
            "target": name,
            "runtimes": list(exporter.target.runtimes),
            "suffix": exporter.target.suffix,
            "precisions": promised[name],
            "unavailable": exporter.unavailable(),
        }
        for name, exporter in exporters().items()
    ]
    cells = tuple(
        (
            e["target"],
            ", ".join(e["runtimes"]),
            ", ".join(e["precisions"]),
            e["suffix"],
            e["unavailable"] or "yes",
        )
        for e in entries
    )
    return entries, TextTable(
        ("target", "runtimes", "precisions", "file", "usable here"),
        cells,
        left=5,
        drop_first=("file", "precisions", "runtimes"),
        wrap=("runtimes", "precisions", "usable here"),
        notes=("To see which mixer works for which target, how and why: stmdeploy list promises.",),
    )


def promised(task: str) -> Listed:
    """Whether the export of every mixer to every target works, by precision and lowering."""
    from stmdeploy.artifacts.promises import promises
    from stmdeploy.spec.export import PRECISIONS

    everything = [p for p in promises() if p.task == task]
    rows: dict[tuple[str, str], dict[str, list[Promise]]] = {}
    for p in everything:
        cells = rows.setdefault((resolve(p.model).stm, p.target), {})
        cells.setdefault(p.precision, []).append(p)
    lines = tuple(
        (stm, target, *(_claims_in_words(cells[precision]) for precision in PRECISIONS))
        for (stm, target), cells in rows.items()
    )
    of_why: dict[tuple[str, str], dict[str, None]] = {}
    for p in everything:
        if p.why:
            of_why.setdefault((p.claim, p.why), {})[p.target] = None
    notes = (
        "*: true of one lowering at least, not of all: see --json.",
        *(f"{claim}: {', '.join(what)}: {why}." for (claim, why), what in sorted(of_why.items())),
    )
    headers = ("mixer", "target", *PRECISIONS)
    table = TextTable(headers, lines, left=7, keys=2, notes=notes)
    return [asdict(p) for p in everything], table


def _claims_in_words(some: list[Promise]) -> str:
    """The best of several promises, with a star where they differ from lowering to lowering."""
    claims = {p.claim for p in some}
    best = next(claim for claim in ("yes", "untried", "no") if claim in claims)
    return best if len(claims) == 1 else f"{best}*"


def gpus() -> Listed:
    """Every GPU that ``--gpu`` knows, with datasheet figures."""
    from stmdeploy.hardware.gpus import describe_machine
    from stmdeploy.hardware.profiles import profiles

    known = list(profiles().values())
    headers = (
        "--gpu", "title", "compute", "memory GB", "GB/s", "L2 MB", "TDP W", "fp32 TFLOPS",
        "fp16 tensor TFLOPS", "int8 tensor TOPS",
    )  # fmt: skip
    cells = tuple(
        (
            p.name,
            p.title,
            p.compute_capability,
            *(f"{value:g}" for value in (p.memory_gb, p.bandwidth_gb_s, p.l2_mb, p.tdp_w)),
            f"{p.peak_tflops['fp32']:g}",
            *(f"{rates[kind]:g}" if kind in rates else ABSENT for kind in ("fp16", "int8")),
        )
        for p in known
        for rates in (p.tensor_tflops or {},)
    )
    notes = (
        "Figures are from datasheets, without sparsity; those of a CPU are measured: stmdeploy "
        "hardware measure.",
        f"This machine has {describe_machine()}.",
    )
    least = ("title", "TDP W", "L2 MB", "compute", "int8 tensor TOPS", "fp32 TFLOPS")
    table = TextTable(headers, cells, left=3, notes=notes, drop_first=least)
    return [asdict(p) for p in known], table


def profile_figures(profile: Profile) -> TextTable:
    """Every figure of a profile with its source."""
    sources = profile.sources or {}

    def line(what: str, value: str, key: str) -> tuple[str, str, str]:
        return what, value, sources.get(key, profile.source)

    rates = [
        line(f"{cores}, {precision}, dense", f"{tflops:g} TFLOPS", key)
        for cores, key, table in (
            ("plain cores", "peak_tflops", profile.peak_tflops),
            ("tensor cores", "tensor_tflops", profile.tensor_tflops or {}),
        )
        for precision, tflops in table.items()
    ]
    cells = (
        line("compute capability", profile.compute_capability, "compute_capability"),
        line("memory", f"{profile.memory_gb:g} GB", "memory_gb"),
        line("bandwidth", f"{profile.bandwidth_gb_s:g} GB/s", "bandwidth_gb_s"),
        line("L2 cache", f"{profile.l2_mb:g} MB", "l2_mb"),
        line("power", f"{profile.tdp_w:g} W", "tdp_w"),
        *rates,
    )
    notes = (
        f"NVML calls it {', '.join(profile.names)}.",
        f"Measured by default: batches {', '.join(map(str, profile.batches))}, precisions "
        f"{', '.join(profile.precisions)}.",
    )
    return TextTable(
        ("what", "datasheet", "source"),
        cells,
        left=3,
        notes=notes,
        wrap=("source",),
        title=f"{profile.name}: {profile.title}",
    )


def cpu_figures(profile: CpuProfile) -> TextTable:
    """What the profile ``cpu`` says; it holds no peaks, because those are measured."""
    cells = (
        ("batches", ", ".join(map(str, profile.batches))),
        ("precisions", ", ".join(profile.precisions)),
        ("peaks", f"{profile.source}: stmdeploy hardware measure"),
    )
    title = f"cpu: {profile.title}"
    return TextTable(("what", "value"), cells, left=2, wrap=("value",), title=title)


def machine() -> tuple[dict[str, Any], TextTable]:
    """This machine's processor and GPUs, each GPU with its profile."""
    from stmdeploy.hardware.gpus import installed_gpus, why_no_gpus
    from stmdeploy.hardware.machine import available_threads, processor_name
    from stmdeploy.hardware.profiles import profile_of

    gpus = []
    for gpu in installed_gpus():
        profile = profile_of(gpu.name)
        gpus.append(
            {"name": gpu.name, "uuid": gpu.uuid, "mig": gpu.sliced,
             "profile": profile.name if profile else None}
        )  # fmt: skip
    document = {"processor": processor_name(), "threads": available_threads(), "gpus": gpus}
    cells = [("processor", f"{document['processor']}, {document['threads']} threads", "cpu")]
    for found in gpus:
        sliced = ", divided by MIG: refused" if found["mig"] else ""
        cells.append(
            ("GPU", f"{found['name']}{sliced} ({found['uuid']})",
             str(found["profile"] or "none: add one, see CONTRIBUTING.md"))
        )  # fmt: skip
    notes = () if gpus else (f"No NVIDIA GPU{why_no_gpus()}.",)
    headers = ("kind", "this machine has", "profile")
    return document, TextTable(headers, tuple(cells), left=3, notes=notes, wrap=headers[1:])


#: What `list` lists, for a task.
LISTINGS: dict[str, Callable[[str], Listed]] = {
    "backbones": backbones,
    "targets": lambda _: targets(),
    "promises": promised,
}
