"""Tables and pictures in prose that come from stored results: `make figures` writes them again.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; a test says when it is not
what the results in the repository give.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.evidence import markdown_table, read
from stmdeploy.measure.contrasts import Ratio
from stmdeploy.report.page import report_page
from stmdeploy.report.ratios import compared, in_words
from stmdeploy.report.text_table import significant
from stmdeploy.schema.row import Row
from stmdeploy.schema.tuned import Tuned, TunedCandidate

ROOT = Path(__file__).parents[1]
MACHINE = ROOT / "results" / "intel-xeon-2-cores-virtual"
PICTURE = ROOT / "docs" / "report.png"
_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def tables_of(page: Path) -> list[str]:
    """The names of the tables that a page shows."""
    return [name for _, name, _ in _MARKED.findall(page.read_text("utf-8"))]


#: Whatever shows a table.
PAGES = tuple(page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
              if tables_of(page))  # fmt: skip


def rows_of(name: str) -> list[Row]:
    """The rows of one file of results."""
    table = json.loads((MACHINE / f"{name}.json").read_text("utf-8"))
    return [Row.model_validate(row) for row in table["rows"]]


def races() -> list[Tuned]:
    """The races of that machine."""
    table = json.loads((MACHINE / "tune.json").read_text("utf-8"))
    return [Tuned.model_validate(one) for one in table["tuned"]]


def main_table() -> str:
    """The five micro backbones at batch 1, by how they compare."""
    every = rows_of("classification")
    beside = {one.row: one for one in compared(every)}
    shown = sorted(
        (i for i, row in enumerate(every) if row.batch == 1),
        key=lambda i: beside[i].ratio.ratio if beside[i].ratio else 0.0,  # type: ignore[union-attr]
    )
    headers = ("backbone", "top-1 % (published)", "latency ms", "95 % interval", "x convnext",
               "group", "images/s", "GMACs", "params M")  # fmt: skip
    cells = []
    for i in shown:
        row, m = every[i], every[i].measurement
        assert m is not None
        one = beside[i]
        cells.append(
            (row.model, significant(row.published_top1_percent), significant(m.latency_ms_p50),
             f"{significant(m.latency_ms_p50_low)} .. {significant(m.latency_ms_p50_high)}",
             "1" if one.row == one.reference else in_words(one.ratio), one.group,
             significant(m.throughput_images_s), significant(row.macs / 1e9),
             significant(row.parameters / 1e6))
        )  # fmt: skip
    return f"{_where(every)}\n\n{markdown_table(headers, cells)}"


def tune_table() -> str:
    """The exact winner of every mixer and batch, and how many times faster than what it is."""
    found = races()
    headers = ("micro", "batch", "winner", "x torch.onnx", "x usual", "as good", "race, s")
    cells = []
    for one in sorted(found, key=lambda one: (_batch(one), -_gain(one, one.reference).ratio)):
        equal = [_way(other) for other in one.candidates if other.state == "as good"]
        cells.append(
            (one.model, str(_batch(one)), _way(one.named(one.best)),
             in_words(_gain(one, one.reference)), in_words(_gain(one, one.usual)),
             "; ".join(equal) or "none", f"{one.measured_s:.0f}")
        )  # fmt: skip
    first = found[0]
    told = (
        f"{_title()}, {first.started_utc[:10]}, stmdeploy {first.stmdeploy_version}; "
        f"{_versions(first.environment.versions)}:"
    )
    return f"{told}\n\n{markdown_table(headers, cells)}"


def _batch(found: Tuned) -> int:
    return found.named(found.best).batch


def detection_table() -> str:
    """The detection backbones, beside the authors' AP."""
    every = rows_of("detection")
    beside = {one.row: one for one in compared(every)}
    headers = ("backbone", "runtime", "box AP", "mask AP", "latency ms", "95 % interval",
               "x reference", "GMACs", "peak MiB")  # fmt: skip
    cells = []
    for i, row in enumerate(every):
        m, one = row.measurement, beside[i]
        assert m is not None
        cells.append(
            (row.model, row.runtime, significant(row.published_box_ap_percent),
             significant(row.published_mask_ap_percent),
             f"{'' if m.steady else '~'}{significant(m.latency_ms_p50)}",
             f"{significant(m.latency_ms_p50_low)} .. {significant(m.latency_ms_p50_high)}",
             "1" if one.row == one.reference else in_words(one.ratio),
             significant(row.macs / 1e9), significant(m.memory_peak_mib))
        )  # fmt: skip
    return f"{_where(every)}\n\n{markdown_table(headers, cells)}"


TABLES: dict[str, Callable[[], str]] = {
    "classification": main_table, "tune": tune_table, "detection": detection_table,
}  # fmt: skip


def written(text: str) -> str:
    """A page with its tables as the results give them."""
    return _MARKED.sub(lambda m: f"{m[1]}{table_of(m[2])}\n{m[3]}", text)


def table_of(name: str) -> str:
    """A table of the rows of a machine, or of what a benchmark has kept."""
    return TABLES[name]() if name in TABLES else read(name).markdown()


def _gain(found: Tuned, over: str) -> Ratio:
    """How many times faster the winner is than another; 1 if it is the other itself."""
    told = {one.of: one for one in found.named(found.best).ratios}.get(over)
    return Ratio(1 / told.ratio, 1 / told.high, 1 / told.low) if told else Ratio(1, 1, 1)


def _way(one: TunedCandidate) -> str:
    return f"{one.runtime}, {one.precision}, {one.lowering}"


def _title() -> str:
    return str(tomllib.loads((MACHINE / "machine.toml").read_text("utf-8"))["title"])


def _versions(versions: dict[str, str]) -> str:
    names = ("onnxruntime", "openvino", "torch")
    return ", ".join(f"{name} {versions[name]}" for name in names if name in versions)


def _where(rows: Sequence[Row]) -> str:
    first = rows[0]
    return (
        f"{_title()}, {first.started_utc[:10]}, stmdeploy {first.stmdeploy_version}, "
        f"{_versions(first.environment.versions)}, {first.precision}:"
    )


def draw_report(path: Path) -> None:
    """A picture of the report on the main table and on OpenVINO's, by a browser."""
    from playwright.sync_api import sync_playwright

    rows = [*rows_of("classification"), *rows_of("openvino")]
    page = path.with_suffix(".html")
    page.write_bytes(report_page(rows, "Accuracy beside real cost", rows[0].started_utc[:19]))
    browser = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, chromium_sandbox=False)
        shown = opened.new_page(viewport={"width": 1280, "height": 1650})
        shown.goto(page.as_uri())
        shown.wait_for_timeout(1500)
        shown.screenshot(path=path)
        opened.close()
    page.unlink()


def main() -> None:
    """Writes all of them."""
    for page in PAGES:
        page.write_text(written(page.read_text("utf-8")), "utf-8")
    draw_report(PICTURE)
    sys.stdout.write(f"wrote {', '.join(p.name for p in (*PAGES, PICTURE))}\n")


if __name__ == "__main__":
    main()
