"""Parameters and multiply-accumulates (MACs) of a module, and what was not counted.

fvcore counts one fused multiply-add as one, so the figures here are MACs, not twice as many
FLOPs. fvcore's totals include its estimates for normalisation (5 per element of a LayerNorm,
2 of a BatchNorm) and bilinear sampling (4 per sample); `Complexity.matmul_conv_macs` is the
total without them. The reference form of a mixer is counted, whatever form is exported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.quiet import quiet
from stmdeploy.spec.model import ModelSpec

if TYPE_CHECKING:
    from fvcore.nn import FlopCountAnalysis
    from torch import nn

#: Progress steps of `count_model`: building and counting.
COUNT_STEPS = 2
#: Kinds of parts, in the order they are shown.
KINDS = ("stem", "downsample", "mixer", "mlp", "norm", "head", "neck", "other")
#: Operators that are matrix products or convolutions, under fvcore's names.
_MATMUL_CONV = frozenset(
    "conv linear matmul addmm bmm baddbmm mm einsum attention deform_conv".split()
)
_NORMS = frozenset("layer_norm batch_norm group_norm instance_norm rms_norm".split())
#: Operators that only move, reshape or select data: no arithmetic to count.
_DATA_MOVEMENT = frozenset(
    "Int ScalarImplicit __and__ alias arange as_strided bitwise_not broadcast_to cat chunk clone"
    " constant_pad_nd contiguous copy_ detach dropout dropout_ empty eq expand expand_as flatten"
    " floor_divide full full_like gather ge gt im2col index index_select lift_fresh masked_fill"
    " meshgrid movedim narrow new_empty new_full new_ones new_zeros ones ones_like pad permute"
    " pixel_shuffle pixel_unshuffle repeat reshape resolve_conj roll select size slice split"
    " split_with_sizes squeeze stack t tensor_split to transpose type_as unbind unflatten unfold"
    " unsqueeze unsqueeze_ view zeros zeros_like feature_dropout".split()
)


@dataclass(frozen=True)
class Complexity:
    """What one inference at batch 1 costs.

    Attributes:
        parameters: number of trainable values.
        macs: multiply-accumulates, fvcore's convention.
        matmul_conv_macs: of these, in matrix products and convolutions.
        by_kind: MACs of stem, downsample, mixer, mlp, norm, head and other parts.
        by_module: MACs of every module that has any, by its dotted name, children included.
        by_operator: MACs of every counted operator.
        activations: elements that convolutions and matrix products write, fvcore's convention.
        uncounted: operators that do arithmetic but were not counted, each with its calls.
        data_movement: operators that only move data, each with its calls.
    """

    parameters: int
    macs: int
    matmul_conv_macs: int
    by_kind: dict[str, int]
    by_module: dict[str, int]
    by_operator: dict[str, int]
    activations: int
    uncounted: dict[str, int]
    data_movement: dict[str, int]


def count_model(spec: ModelSpec, progress: Progress) -> Complexity:
    """Builds a model and counts it at batch 1; reports `COUNT_STEPS` steps of progress.

    Raises:
        StmdeployError: the model cannot be built or traced.
    """
    from stmdeploy.backbones.source import build_model

    built = build_model(spec, progress)
    progress.step(f"counting {spec.name}")
    return count(built.module, spec.image_size)


def count(module: nn.Module, image_size: tuple[int, int]) -> Complexity:
    """Counts the parameters and MACs of a module that takes N 3 H W, by tracing it at batch 1.

    Args:
        module: in eval mode, float32.
        image_size: (height, width) in pixels.

    Raises:
        StmdeployError: the module cannot be traced, or there is no memory for the image.
    """
    import torch
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    with quiet("fvcore.nn.jit_analysis"), torch.no_grad():
        try:
            image = torch.zeros(1, 3, *image_size)
        except RuntimeError as error:
            raise StmdeployError(
                f"no memory for an image of {image_size[0]}x{image_size[1]} px", "make it smaller"
            ) from error
        analysis = FlopCountAnalysis(module, (image,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.set_op_handle(**_HANDLERS)
        # fvcore silently ignores some operators; count their calls as well.
        analysis._ignored_ops = set()
        try:
            by_operator = analysis.by_operator()
        except Exception as error:
            raise StmdeployError(
                f"the model cannot be traced for counting: {error}",
                "it must map one image tensor to tensors without data-dependent control flow",
            ) from error
        activations = ActivationCountAnalysis(module, (image,))
        activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return Complexity(
            parameters=sum(parameter.numel() for parameter in module.parameters()),
            macs=int(sum(by_operator.values())),
            matmul_conv_macs=int(sum(n for op, n in by_operator.items() if op in _MATMUL_CONV)),
            by_kind=_by_kind(module, analysis),
            by_module={name: int(n) for name, n in analysis.by_module().items() if name and n},
            by_operator={op: int(n) for op, n in by_operator.most_common()},
            activations=int(activations.total()),
            uncounted={op: n for op, n in _uncounted(analysis) if op not in _DATA_MOVEMENT},
            data_movement={op: n for op, n in _uncounted(analysis) if op in _DATA_MOVEMENT},
        )


def _uncounted(analysis: FlopCountAnalysis) -> list[tuple[str, int]]:
    """Operators that were not counted, each with its calls, the most frequent first."""
    calls = analysis.unsupported_ops().items()
    counts = {op.removeprefix("aten::"): n for op, n in calls if not op.startswith("prim::")}
    return Counter(counts).most_common()


def _by_kind(module: nn.Module, analysis: FlopCountAnalysis) -> dict[str, int]:
    """Every module's own MACs (its children's taken off), summed by the kind of its name."""
    kinds: Counter[str] = Counter()
    counted = analysis.by_module_and_operator()
    for name, part in module.named_modules():
        own = Counter(counted[name])
        for child, _ in part.named_children():
            own.subtract(counted[f"{name}.{child}" if name else child])
        for operator, macs in own.items():
            kinds["norm" if operator in _NORMS else kind_of(name)] += int(macs)
    return {kind: kinds[kind] for kind in KINDS if kinds[kind]}


def kind_of(name: str) -> str:
    """The kind of part, one of `KINDS`, that a module belongs to, from its dotted name."""
    path = name.removeprefix("backbone.").split(".")
    if path[0] == "neck":
        return "neck"
    if path[0] == "downsample_layers":
        return "stem" if path[1:2] == ["0"] else "downsample"
    if path[0] in ("conv_head", "head"):
        return "head"
    if path[0] == "stages" and len(path) > 3:
        if path[3] in ("mlp", "pwconv1", "pwconv2", "act"):
            return "mlp"
        if path[3] in ("attn", "dw_input_proj", "dwconv", "dw_out_proj"):
            return "mixer"
    return "other"


# Handlers for operators that fvcore lacks. Each takes the traced inputs and outputs.


def _shape(value: Any) -> list[int]:
    from fvcore.nn.jit_handles import get_shape

    shape: list[int] = get_shape(value)
    return shape


def _attention(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
    """scaled_dot_product_attention: q (.. L d), k (.. S d), v (.. S e) -> L S (d + e) each."""
    *lead, tokens, channels = _shape(inputs[0])
    *_, keys, values = _shape(inputs[2])
    return Counter(attention=prod(lead) * tokens * keys * (channels + values))


def _baddbmm(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
    """baddbmm(x, a, b): a (B n m) times b (B m p)."""
    batch, rows, inner = _shape(inputs[1])
    return Counter(baddbmm=batch * rows * inner * _shape(inputs[2])[-1])


def _deform_conv(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """torchvision's deform_conv2d: a convolution, and four products for every sample."""
    n, _, *positions = _shape(outputs[0])
    out_channels, in_channels, *kernel = _shape(inputs[1])
    per_sample = prod(kernel) * n * prod(positions)
    sampled = per_sample * _shape(inputs[0])[1]
    return Counter(deform_conv=per_sample * in_channels * out_channels, deform_sample=4 * sampled)


def _rms_norm(inputs: list[Any], _outputs: list[Any]) -> Counter[str]:
    """Square, mean, scale and weight: 4 per element, beside fvcore's 5 of a LayerNorm."""
    return Counter(rms_norm=4 * prod(_shape(inputs[0])))


_HANDLERS: dict[str, Callable[[list[Any], list[Any]], Counter[str]]] = {
    "aten::scaled_dot_product_attention": _attention,
    "aten::baddbmm": _baddbmm,
    "aten::rms_norm": _rms_norm,
    "torchvision::deform_conv2d": _deform_conv,
}
