"""What `stmdeploy inspect` shows of an artifact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pydantic import TypeAdapter

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB, parse_document, read_bytes
from stmdeploy.report.text_table import ABSENT, TextTable, significant, tally
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.manifest import (
    DynamicSize,
    EngineInfo,
    FusedLayer,
    Manifest,
    ModelInfo,
    Share,
    Verification,
)

#: An engine has thousands of layers, each of which names its nodes.
_LAYERS_MIB = 64


def artifact_tables(artifact: Artifact) -> tuple[TextTable, ...]:
    """The manifest's facts, then MACs and bytes by part and by operator."""
    manifest = artifact.manifest
    facts = TextTable(
        ("what", "as its manifest says"),
        _facts(artifact),
        left=2,
        wrap=("as its manifest says",),
        title=str(artifact.path),
    )
    if manifest.cost is None:
        note = (
            f"Operators: {tally(manifest.operators, 'not known')}. Without an ONNX graph of its "
            "own, an artifact shows no MACs and bytes by part."
        )
        return (replace(facts, notes=(note,)),)
    notes = [
        "At batch 1. MACs of matrix products, convolutions and bilinear samples (4 each), as this "
        "graph does them. Bytes: every tensor once for each node that reads or writes it."
    ]
    if unknown := manifest.cost.unknown_shapes:
        notes.append(f"{unknown} nodes have a tensor of unknown shape, which is not counted.")
    parts = manifest.cost.by_part
    known = [_cost_table("part", parts)] if parts.keys() != {"other"} else []
    return (
        facts,
        *known,
        _cost_table("operator", manifest.cost.by_operator, tuple(notes)),
    )


def _facts(artifact: Artifact) -> tuple[tuple[str, str], ...]:
    m = artifact.manifest
    return (
        ("model", ", ".join(filter(None, (
            m.model.name, "x".join(map(str, m.model.image_size or ())), _gives(m.model),
            f"{m.model.parameters / 1e6:.2f} M parameters")))),
        ("weights", f"{m.model.weights.kind}, {m.model.weights.source}"),
        ("target", f"{m.target}, {m.precision}, lowering {m.lowering}"
                   + (f", opset {m.opset}" if m.opset else "")),
        *(("instead of" if m.verification else "note", note) for note in m.notes),
        ("state", m.state + (f": {m.not_run}" if m.not_run else "")),
        *(_verified(m.verification) if m.verification else ()),
        *(_maps(m, m.verification) if m.verification else _tensors(m)),
        *(_sizes(m.dynamic_size) if m.dynamic_size else ()),
        *(("fidelity", f"{kept.relative_l2_error:.2e} relative L2"
                       + ("" if kept.top1_agreement_percent is None
                          else f", top-1 agreement {kept.top1_agreement_percent:.1f} %")
                       + f", over {kept.images} images ({kept.source})")
          for kept in (m.fidelity,) if kept),
        *(("calibration", f"{scales.images} images ({scales.source}), {scales.method}")
          for scales in (m.calibration,) if scales),
        *(_engine(m.engine) if m.engine else ()),
        *(("file", f"{file.name}, {file.size_bytes / BYTES_PER_MIB:.1f} MiB, hash verified")
          for file in m.files),
        ("versions", ", ".join(f"{name} {version}" for name, version in m.versions.items())),
        ("created", f"{m.created_utc}, in {m.export_s:.1f} s"),
    )  # fmt: skip


def _verified(checked: Verification) -> tuple[tuple[str, str], ...]:
    allowed = checked.tolerance_relative_l2
    judged = "reported, not judged" if allowed is None else f"allowed {allowed:.0e}"
    batches = ", ".join(map(str, checked.batches))
    told = f"{checked.relative_l2_error:.2e} relative L2 ({judged}), by {checked.runtime}"
    return (("error", f"{told}, batches {batches}"),)


def _tensors(m: Manifest) -> tuple[tuple[str, str], ...]:
    """Every input and output of a file from outside."""
    return tuple(
        (what, f"{one.name}, {'x'.join(map(str, one.shape)) or 'one number'}, {one.dtype}")
        for what, some in (("input", m.inputs), ("output", m.outputs))
        for one in some
    )


def _maps(m: Manifest, checked: Verification) -> tuple[tuple[str, str], ...]:
    """Each map with its shape and its error; nothing for logits."""
    errors = checked.relative_l2_errors
    return tuple(
        ("map", f"{one.name}, {'x'.join(map(str, one.shape))}, error {errors[one.name]:.2e}")
        for one in m.outputs
        if len(m.outputs) > 1 and one.name in errors
    )


def _sizes(sizes: DynamicSize) -> tuple[tuple[str, str], ...]:
    """The sizes that an artifact of dynamic size takes, and those it was verified at."""
    least, most = ("x".join(map(str, size)) for size in (sizes.least, sizes.most))
    verified = (
        f"{one.image_size[0]}x{one.image_size[1]} {one.relative_l2_error:.2e}"
        for one in sizes.verified
    )
    return (
        ("sizes", f"{least} to {most} px, multiples of {sizes.step}"),
        ("verified at", f"the size above and {', '.join(verified)} relative L2"),
    )


def _gives(model: ModelInfo) -> str:
    """What a model gives, in words."""
    if model.num_classes is not None:
        return f"{model.num_classes} classes"
    if model.weights.kind == "file":
        return "made elsewhere"
    return f"{model.task}{f', neck {model.neck}' if model.neck else ''}"


def _engine(engine: EngineInfo) -> tuple[tuple[str, str], ...]:
    made_for = engine.gpu or f"compute capability {', '.join(engine.compute_capabilities)}"
    return (
        ("engine", f"{engine.module} {engine.version}, for {made_for}, "
                   f"batches {', '.join(map(str, engine.batch))}"
                   + ("" if engine.build_s is None else f", built in {engine.build_s:.1f} s")),
        ("layers", f"{engine.layers_before or ABSENT} before fusion, "
                   f"{engine.layers_after or ABSENT} after; "
                   f"outputs: {tally(engine.output_dtypes, 'not said')}"),
        ("memory", f"weights {_mib(engine.weights_bytes)}, "
                   f"activations {_mib(engine.activation_bytes)}"),
    )  # fmt: skip


def _mib(value: int | None) -> str:
    return ABSENT if value is None else f"{value / BYTES_PER_MIB:.1f} MiB"


def _cost_table(by: str, shares: dict[str, Share], notes: tuple[str, ...] = ()) -> TextTable:
    all_macs = max(1, sum(share.macs for share in shares.values()))
    all_bytes = max(1, sum(_bytes(share) for share in shares.values()))
    cells = tuple(
        (
            name,
            str(share.nodes),
            significant(share.macs / 1e6),
            f"{100 * share.macs / all_macs:.1f}",
            significant(share.weight_bytes / BYTES_PER_MIB),
            significant(share.activation_bytes / BYTES_PER_MIB),
            f"{100 * _bytes(share) / all_bytes:.1f}",
        )
        for name, share in sorted(shares.items(), key=lambda entry: -_bytes(entry[1]))
    )
    headers = (by, "nodes", "MMACs", "MACs %", "weights MiB", "activations MiB", "bytes %")
    least = ("nodes", "weights MiB", "activations MiB", "MMACs")
    return TextTable(headers, cells, notes=notes, drop_first=least)


def _bytes(share: Share) -> int:
    return share.weight_bytes + share.activation_bytes


def engine_layers(artifact: Artifact) -> tuple[FusedLayer, ...]:
    """The fused layers of an engine, from the file beside it.

    Raises:
        StmdeployError: there are none, or they are damaged.
    """
    listed = [file.name for file in artifact.manifest.files if file.name.endswith(".layers.json")]
    if not listed:
        raise StmdeployError(f"no list of layers lies beside {artifact.path}", "export it again")
    path = artifact.path.with_name(listed[0])
    text = read_bytes(path, "", "export it again", _LAYERS_MIB)
    read = TypeAdapter(tuple[FusedLayer, ...]).validate_json
    return parse_document(read, text, str(path), "export it again")


def layer_table(layers: Sequence[FusedLayer]) -> TextTable:
    """One line per fused layer: its part of the model, kind, data types, number of ONNX nodes."""
    cells = tuple(
        (
            layer.name,
            layer.part,
            layer.kind,
            *(
                tally(Counter(dtypes), ABSENT)
                for dtypes in (layer.input_dtypes, layer.weight_dtypes, layer.output_dtypes)
            ),
            str(len(layer.onnx_nodes)),
        )
        for layer in layers
    )
    headers = ("fused layer", "part", "kind", "inputs", "weights", "outputs", "ONNX nodes")
    return TextTable(
        headers, cells, left=6, drop_first=("ONNX nodes",), wrap=("inputs", "weights", "outputs")
    )
