"""How the precision of every part was chosen, as a table."""

from __future__ import annotations

from stmdeploy.report.text_table import TextTable, fixed
from stmdeploy.schema.manifest import Manifest
from stmdeploy.schema.mixed import Choice, Tried
from stmdeploy.schema.tuned import Tuned


def choice_table(manifest: Manifest) -> TextTable:
    """A line for every candidate that was tried, in the order of the trials; the manifest has a
    choice."""
    choice = manifest.choice
    assert choice is not None
    low = choice.sensitivity.precision
    return TextTable(
        ("kept in fp32", "over", "images", "error", "at most", "agrees %", "at least", "top-1 drop",
         "at most", "limits"),
        tuple(_line(one) for one in choice.tried),
        left=2,
        keys=2,
        wrap=("kept in fp32",),
        drop_first=("images", "top-1 drop", "agrees %", "error"),
        title=f"{manifest.model.name} for {manifest.target}: {_chosen(manifest, low)}",
        notes=(_promise(choice), *_latency(choice)),
    )  # fmt: skip


def _line(one: Tried) -> tuple[str, ...]:
    kept, drop = one.kept, one.kept.top1_drop_percent
    bound = one.top1_drop_bound_percent
    return (
        ", ".join(one.kept_parts) or "nothing",
        one.over,
        str(one.images),
        "not finite" if kept.relative_l2_error is None else f"{kept.relative_l2_error:.2e}",
        "-" if one.error_bound is None else f"{one.error_bound:.2e}",
        fixed(kept.agreement_percent, 2),
        fixed(one.agreement_bound_percent, 2),
        "-" if drop is None else f"{drop:+.2f}",
        "-" if bound is None else f"{bound:+.2f}",
        "hold" if one.holds else "not shown",
    )


def _chosen(manifest: Manifest, low: str) -> str:
    if manifest.precision == "fp32":
        return "fp32 is written"
    return (
        f"{low}, but {', '.join(manifest.kept)} in fp32" if manifest.kept else f"{low} throughout"
    )


def _promise(choice: Choice) -> str:
    return (
        f"Asked: {'; '.join(limits_in_words(choice))}. Bounds hold with 95 % together, over images "
        f"held out ({choice.sensitivity.data}), which chose nothing."
    )


def limits_in_words(asked: Choice | Tuned) -> list[str]:
    """The limits of fidelity that were asked for."""
    told = {
        "error at most {:g}": asked.max_error,
        "agreement at least {:g} %": asked.min_agreement_percent,
        "top-1 at most {:g} points lower": asked.max_top1_drop_percent,
    }
    return [words.format(limit) for words, limit in told.items() if limit is not None]


def _latency(choice: Choice) -> list[str]:
    return [
        f"The choice takes {one.ratio:.3f} ({one.low:.3f} .. {one.high:.3f}) of the time of "
        f"{one.of}, by turns, batch {choice.latency_batch}, on {choice.processor}."
        for one in choice.latency
    ]
