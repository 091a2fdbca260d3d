"""The report in a real browser: no errors; filters, sorting, downloads, many rows, odd names."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stmdeploy.hardware.roofline import bound
from stmdeploy.measure.steps import steps
from stmdeploy.report.colours import colours_of
from stmdeploy.report.history import History
from stmdeploy.report.page import page_data, report_page
from stmdeploy.report.ratios import name_of
from stmdeploy.schema.measurement import ScenarioResult
from stmdeploy.schema.row import Row, RowContrast
from tests.hardware.test_roofline import peaks

try:
    from playwright.sync_api import Browser, Page, Route, sync_playwright
except ImportError:  # pragma: no cover
    pytest.skip("playwright is not installed", allow_module_level=True)

MakeRow = Callable[..., Row]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None
)
_FLAGS = (
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
#: Until something that is waited for is given up.
_PATIENCE_MS = 120_000
EVIL = "<img src=x onerror=alert(1)>&amp;<b>bold</b>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium: .ci/browser installs it")
        pytest.skip("there is no chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(_FLAGS), chromium_sandbox=False
        )
        yield opened
        opened.close()


@pytest.fixture
def faults() -> list[str]:
    """What a page asked of the network, or complained of."""
    return []


@pytest.fixture
def show(browser: Browser, faults: list[str], tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report on some rows; whatever goes wrong in it fails the test at its end."""
    contexts = []
    requests: list[str] = []

    def opened(
        rows: list[Row],
        since: tuple[Row, ...] = (),
        histories: Sequence[History] = (),
        **settings: object,
    ) -> Page:
        path = tmp_path / "report.html"
        made = report_page(rows, "Report", "2026-01-01T00:00:00", since, histories=histories)
        path.write_bytes(made)
        context = browser.new_context(accept_downloads=True, **settings)  # type: ignore[arg-type]
        context.set_default_timeout(_PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"error {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on("console", lambda told: faults.append(f"{told.type} {told.text}"))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(path.as_uri())
        look_at(page, "pareto")
        return page

    yield opened
    for context in contexts:
        context.close()
    asked = [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert faults == []
    asked = [url.split("#")[0] for url in asked if url != "about:blank"]
    assert all(url.endswith("/report.html") and url.startswith("file:") for url in asked)


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    """Three mixers at two batches on two devices."""
    return [sample(make_row, stm, batch, device)
            for device in ("CPU A", "CPU B")
            for stm in ("dcn", "halo", "swin")
            for batch in (1, 8)]  # fmt: skip


def sample(make_row: MakeRow, stm: str, batch: int, device: str, factor: float = 1.0) -> Row:
    latency = factor * batch * {"dcn": 10.0, "halo": 12.0, "swin": 8.0}[stm]
    row = make_row()
    assert row.measurement is not None
    measurement = row.measurement.model_copy(
        update={
            "latency_ms_p50": latency,
            "latency_ms_p50_low": 0.95 * latency,
            "latency_ms_p50_high": 1.05 * latency,
            "throughput_images_s": 1000 * batch / latency,
        }
    )
    return row.model_copy(
        update={
            "stm": stm,
            "model": f"unified_{stm}_micro",
            "batch": batch,
            "device_name": device,
            "measurement": measurement,
            "published_top1_percent": {"dcn": 75.3, "halo": 75.8, "swin": 74.4}[stm],
            "bound": bound((), batch, "fp32", peaks((4.0, 100.0), (None, 20.0))).model_copy(
                update={"bound_ms": latency / 2, "macs": 10**9 * batch, "bytes": 10**7 * batch}
            ),
            "parts_ms": {"stem": 1.0, "stage 1 mixer": 2.0, "stage 1 mlp": 1.0},
        }
    )


def unsteady(row: Row, *advice: str) -> Row:
    """The row, had it not been measured steadily."""
    assert row.measurement is not None
    shaken = row.measurement.model_copy(update={"steady": False, "advice": advice})
    return row.model_copy(update={"measurement": shaken})


def failed(row: Row, failure: str) -> Row:
    """The row, had it failed."""
    return row.model_copy(update={"measurement": None, "bound": None, "failure": failure})


def cells(page: Page, column: str) -> list[str]:
    """The texts of a column of the table, by its heading."""
    heads = [text.split("\n")[0].strip() for text in page.locator("#heads th").all_inner_texts()]
    place = heads.index(column) + 1
    return page.locator(f"#body td:nth-child({place})").all_inner_texts()


def sort_by(page: Page, column: str) -> None:
    """Presses a heading by its key: plots drawn meanwhile may move it from under the mouse."""
    page.locator("#heads button", has_text=column).first.press("Enter")


def until(page: Page, condition: str) -> None:
    """Waits for a condition; the page's own policy forbids playwright's way of doing so."""
    deadline = time.monotonic() + 120
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def look_at(page: Page, plot: str) -> None:
    """Plots are drawn when they come into sight."""
    page.locator(f"#{plot}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{plot} .main-svg")


def traces(page: Page, plot: str) -> list[dict[str, object]]:
    """Name and points of every trace that a plot shows."""
    look_at(page, plot)
    found: list[dict[str, object]] = page.evaluate(
        "id => document.getElementById(id).data.map(t => ({name: t.name, x: t.x, y: t.y}))", plot
    )
    return found


def points(page: Page, plot: str) -> int:
    """Markers that are drawn, as the browser sees them."""
    return page.locator(f"#{plot} .scatterlayer .points path.point").count()


Show = Callable[..., Page]
PLOTS = ("pareto", "scaling", "roofline", "parts")
#: What the buttons on a plot do; all of it stays in the browser.
BUTTONS = [
    "Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes",
]  # fmt: skip
MARKERS = """
id => document.getElementById(id).data.filter(trace => trace.hovertext).flatMap(trace =>
  trace.hovertext.map((hover, i) => [trace.marker.symbol[i], hover]))
"""
LINKS = """
elements => elements.flatMap(e => ["href", "action", "src"].map(n => e.getAttribute(n)))
  .filter(address => address !== null)
"""
#: All at once: a click may have some of them drawn anew, and one that is gone is waited for.
CLICKING = """
buttons => buttons.forEach(b => b.dispatchEvent(new MouseEvent(
  "click", {bubbles: true, cancelable: true, composed: true})))
"""
#: What a page could send something with, each made to tell instead.
SENDING = """
() => { for (const [owner, name] of [[window, "open"], [window, "fetch"], [navigator, "sendBeacon"],
    [XMLHttpRequest.prototype, "open"], [HTMLFormElement.prototype, "submit"],
    [HTMLFormElement.prototype, "requestSubmit"], [window, "WebSocket"], [window, "Worker"]]) {
  owner[name] = () => { throw new Error(`sent by ${name}`); };
} }
"""


def test_plots_and_the_table_show_every_row(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    assert page.locator("#shown").inner_text() == "12 of 12 rows"
    assert len(cells(page, "backbone")) == 12
    assert points(page, "pareto") == 6  # at the smallest batch
    front = {t["name"]: t["y"] for t in traces(page, "pareto") if "front" in str(t["name"])}
    assert front == {"front, CPU A": [74.4, 75.3, 75.8], "front, CPU B": [74.4, 75.3, 75.8]}
    assert page.locator("#pareto .errorbar").count() == 6
    roofs = [str(t["name"]) for t in traces(page, "roofline") if "GB/s" in str(t["name"])]
    assert len(roofs) == 4
    assert all("(measured)" in name for name in roofs)
    look_at(page, "parts")
    assert page.locator("#parts .barlayer .point").count() == 3 * 12
    assert "Test CPU" in page.locator("main > section:last-child summary").inner_text()


def test_filters_change_plots_and_table(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    page.get_by_role("checkbox", name="halo", exact=True).uncheck()
    page.get_by_role("checkbox", name="CPU B", exact=True).uncheck()
    until(page, "document.getElementById('shown').textContent.startsWith('4 ')")
    until(page, "document.querySelectorAll('#pareto path.point').length === 2")
    assert set(cells(page, "mixer")) == {"dcn", "swin"}
    assert not any("halo" in str(t["name"]) for t in traces(page, "scaling"))
    page.get_by_role("checkbox", name="halo", exact=True).check()
    until(page, "document.querySelectorAll('#pareto path.point').length === 3")


def test_any_cost_can_be_looked_at(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    page.locator("#batch").select_option("all")
    page.locator("#cost").select_option(label="throughput, images/s")
    until(
        page, "document.getElementById('pareto').layout.xaxis.title.text.startsWith('throughput')"
    )
    assert points(page, "pareto") == 12
    # More is better now: the front begins with the highest throughput.
    front = next(t for t in traces(page, "pareto") if t["name"] == "front, CPU A")
    assert front["x"] == [125, 100, 83.3333]
    # A cost that nobody measured is not offered.
    assert "energy" not in page.locator("#cost").inner_text()


def test_the_table_sorts_either_way(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    sort_by(page, "latency ms")
    ascending = [float(text) for text in cells(page, "latency ms")]
    assert ascending == sorted(ascending)
    page.keyboard.press("Enter")  # the heading has the focus
    descending = [float(text) for text in cells(page, "latency ms")]
    assert descending == ascending[::-1]
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_everything_can_be_reached_by_keys(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    for _ in range(7):  # the search, what looks mean, all and none
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "checkbox":
            break
    page.keyboard.press("Space")
    until(page, "document.getElementById('shown').textContent.startsWith('8 ')")


def test_downloads_hold_what_the_filters_leave(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    page.get_by_role("checkbox", name="swin", exact=True).uncheck()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download CSV").click()
    text = Path(started.value.path()).read_text("utf-8")
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 8
    assert {line["stm"] for line in found} == {"dcn", "halo"}
    assert float(found[0]["latency_ms_p50"]) == 10.0
    with page.expect_download() as started:
        page.get_by_role("button", name="Download JSON").click()
    assert len(json.loads(Path(started.value.path()).read_text("utf-8"))["rows"]) == 8


def test_markup_in_names_stays_text(show: Show, make_row: MakeRow) -> None:
    row = sample(make_row, "dcn", 1, EVIL).model_copy(
        update={"model": EVIL, "stm": EVIL, "scale": "</script><script>alert(2)</script>"}
    )
    page = show([row, sample(make_row, "halo", 1, "=1+1")])
    assert cells(page, "backbone")[0] == EVIL
    assert page.locator("main img, td b").count() == 0
    shown = page.locator("#pareto-key").text_content() or ""
    assert EVIL in shown
    with page.expect_download() as started:
        page.get_by_role("button", name="Download CSV").click()
    found = list(csv.DictReader(io.StringIO(Path(started.value.path()).read_text("utf-8"))))
    assert [line["device_name"] for line in found] == [EVIL, "'=1+1"]


def test_no_button_sends_anything(show: Show, rows: list[Row]) -> None:
    """Every plot has the buttons that were chosen and no others, and none of them all, nor a
    link, leads anywhere outside."""
    page = show([unsteady(rows[0], "raise --budget-s"), *rows[1:]])
    page.evaluate(SENDING)
    asked: list[str] = []
    page.context.on("page", lambda other: asked.append(f"another window, {other.url}"))

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    page.context.route("**/*", refuse)
    for plot in PLOTS:
        look_at(page, plot)
        # Buttons, the logo among them, are links without an address.
        assert page.locator(f"#{plot} a:not(.modebar-btn)").count() == 0
        buttons = page.locator(f"#{plot} .modebar-btn")
        assert buttons.evaluate_all("all => all.map(one => one.dataset.title)") == BUTTONS
        buttons.evaluate_all(CLICKING)
    page.locator("button").evaluate_all(CLICKING)
    page.wait_for_timeout(300)
    links = page.eval_on_selector_all("[href], [action], [src]", LINKS)
    assert set(links) <= {"#table", "#care", "data:,"}
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []
    assert page.url.split("#")[0].endswith("/report.html")
    policy = page.locator("meta[http-equiv]").get_attribute("content") or ""
    assert "default-src 'none'" in policy
    assert "form-action 'none'" in policy


def five_thousand(make_row: MakeRow) -> list[Row]:
    return [
        sample(make_row, stm, batch, device, 1 + i / 500)
        for i in range(418)
        for stm in ("dcn", "halo", "swin")
        for batch in (1, 8)
        for device in ("CPU A", "CPU B")
    ]


def without_halo(page: Page) -> None:
    """Filtered, and the plot and the table have followed."""
    page.get_by_role("checkbox", name="halo", exact=True).uncheck()
    until(page, "document.getElementById('shown').textContent.startsWith('3344 ')")
    until(page, "document.querySelectorAll('#pareto path.point').length === 1672")


@pytest.mark.slow
def test_five_thousand_rows(show: Show, make_row: MakeRow) -> None:
    many = five_thousand(make_row)
    assert len(many) > 5000
    page = show(many)
    without_halo(page)
    assert page.locator("#body tr").count() == 100
    page.get_by_role("button", name="Next").click()
    assert page.locator("#page").inner_text() == "page 2 of 34"
    look_at(page, "roofline")
    until(page, "document.querySelectorAll('#roofline path.point').length === 3344")


@pytest.mark.nightly
def test_when_five_thousand_rows_are_usable(show: Show, make_row: MakeRow) -> None:
    """Prints it (with -s): about a second where nothing else runs."""
    page = show(five_thousand(make_row))
    taken_s = []
    for _ in range(5):
        begun = time.monotonic()
        page.reload()
        without_halo(page)
        taken_s.append(time.monotonic() - begun)
    print(f"\nusable after {min(taken_s):.1f} s")  # noqa: T201


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_the_light_and_in_the_dark(show: Show, rows: list[Row], scheme: str) -> None:
    page = show(rows, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390  # only the table scrolls sideways, inside its own frame
    text, back = (
        page.evaluate(f"getComputedStyle(document.body).{what}")
        for what in ("color", "backgroundColor")
    )
    assert (luminance(text) < luminance(back)) == (scheme == "light")
    drawn = page.locator("#pareto .xtitle").evaluate("e => getComputedStyle(e).fill")
    assert drawn == text


#: Texts of a plot that lie over each other, or are cut by its frame.
CROWDED = """
id => {
  const plot = document.getElementById(id), frame = plot.getBoundingClientRect();
  const texts = [...plot.querySelectorAll("svg text")].filter(one => one.textContent.trim())
    .map(one => ({ told: one.textContent, box: one.getBoundingClientRect() }))
    .filter(({ box }) => box.width && box.height);
  const outside = ({ box }) => box.left < frame.left - 1 || box.right > frame.right + 1 ||
    box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  const faults = texts.filter(outside).map(({ told }) => `cut: ${told}`);
  texts.forEach((one, i) => texts.slice(i + 1).forEach(other => {
    const [a, b] = [one.box, other.box];
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1.5 && down > 2.5) faults.push(`${one.told} over ${other.told}`);
  }));
  return [texts.length, faults];
}
"""


def crowded(page: Page, plot: str) -> list[str]:
    """What is wrong with the texts of a plot, once its labels are placed."""
    look_at(page, plot)
    page.wait_for_timeout(250)
    count, faults = page.evaluate(CROWDED, plot)
    assert count > 3, plot
    return [f"{plot}: {fault}" for fault in faults]


OTHER_LOOKS = ((390, "dark"), (768, "light"), (1440, "dark"))


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "light"),
        (768, "dark"),
        (1440, "light"),
        *(pytest.param(*other, marks=pytest.mark.nightly) for other in OTHER_LOOKS),
    ],
)
def test_texts_of_plots_keep_apart(show: Show, rows: list[Row], width: int, scheme: str) -> None:
    """Of rows that took turns, over time, on a phone, a tablet and a desk; and on paper."""
    turned = by_turns([unsteady(rows[0], "busy"), *rows[1:]], {"swin"})
    page = show(
        turned, histories=[crept(turned[0])],
        viewport={"width": width, "height": 900}, color_scheme=scheme,
    )  # fmt: skip
    every = (*PLOTS, "forest", "history")
    assert [fault for plot in every for fault in crowded(page, plot)] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    look_at(page, "pareto")
    page.locator("#batch").select_option("all")
    page.locator("#panels").select_option("device_name")
    until(page, "document.querySelectorAll('#pareto path.point').length === 12")
    assert crowded(page, "pareto") == []
    page.emulate_media(media="print")
    page.wait_for_timeout(300)
    assert [fault for plot in every for fault in crowded(page, plot)] == []


def crept(row: Row) -> History:
    """A row that became slower by a tenth after eight of sixteen sweeps."""
    figures = tuple(10.0 + 0.01 * (i % 3) + (i >= 8) for i in range(16))
    return History(
        name=name_of(row), machine="CPU A", sweeps=tuple(f"sweep {i}" for i in range(16)),
        times=tuple(f"2026-01-{i + 1:02}T00:00:00" for i in range(16)), figures=figures, unit="ms",
        steps=tuple(steps(figures)),
    )  # fmt: skip


def test_history_is_drawn_with_its_steps(show: Show, rows: list[Row]) -> None:
    page = show(rows, histories=[crept(rows[0])])
    look_at(page, "history")
    levels = [t for t in traces(page, "history") if len(t["x"]) == 2]  # type: ignore[arg-type]
    assert [t["x"] for t in levels] == [[-0.5, 7.5], [7.5, 15.5]]
    assert "Steps: +10.0 %" in page.locator("#history-note").inner_text()
    assert show(rows).locator("#history").count() == 0


def luminance(colour: str) -> float:
    """Of ``rgb(r, g, b)``, near enough."""
    red, green, blue = (float(part.strip(" rgba()")) for part in colour.split(",")[:3])
    return 0.2 * red + 0.7 * green + 0.1 * blue


def test_print_leaves_the_controls_out(show: Show, rows: list[Row]) -> None:
    page = show(rows, color_scheme="dark")
    page.emulate_media(media="print")
    page.wait_for_selector("#parts .main-svg")
    assert not page.locator("#filters-box").is_visible()
    assert page.locator("#body tr").count() == 12
    assert luminance(page.evaluate("getComputedStyle(document.body).color")) == 0
    assert page.pdf()[:5] == b"%PDF-"


def test_a_failed_row_is_in_the_table_alone(show: Show, rows: list[Row]) -> None:
    page = show([failed(rows[0], "worker died"), *rows[2:]])
    assert cells(page, "failure").count("worker died") == 1
    assert cells(page, "latency ms")[0] == "failed"
    assert "10 rows measured, 1 failed" in page.locator("header").inner_text()
    assert "worker died" in page.locator("#failures").inner_text()
    assert points(page, "pareto") == 5
    # Nor is it drawn against what is counted.
    page.locator("#cost").select_option(label="GMACs per image, counted")
    until(page, "document.getElementById('pareto').layout.xaxis.title.text.startsWith('GMACs')")
    assert points(page, "pareto") == 5


def test_a_row_that_failed_later_has_no_figures(rows: list[Row]) -> None:
    """Whatever it came to before."""
    data = page_data([rows[0].model_copy(update={"failure": "worker died"})])
    first = dict(zip(data["keys"], data["rows"][0], strict=True))
    assert first["failure"] == "worker died"
    assert first["latency_ms_p50"] is first["throughput_images_s"] is None


def test_where_every_row_failed_the_table_says_so(show: Show, rows: list[Row]) -> None:
    page = show([failed(row, "worker died") for row in rows[:2]])
    assert cells(page, "latency ms") == ["failed", "failed"]
    assert page.locator("#failures ul.names > li").count() == 2


def test_unsteady_rows_are_marked_as_on_the_command_line(show: Show, rows: list[Row]) -> None:
    """The mark does not come between the table and its numbers, sorted or downloaded."""
    page = show([*rows[:2], unsteady(rows[2], "raise --budget-s"), *rows[3:]])
    assert cells(page, "latency ms")[2] == "~12.0"
    assert "~ before a latency: it was not measured steadily" in page.locator("#table").inner_text()
    assert "1 of 12 rows was not measured steadily" in page.locator("header").inner_text()
    sort_by(page, "latency ms")
    ascending = [float(text.lstrip("~")) for text in cells(page, "latency ms")]
    assert ascending == sorted(ascending)
    with page.expect_download() as started:
        page.get_by_role("button", name="Download CSV").click()
    text = Path(started.value.path()).read_text("utf-8")
    found = [(line["latency_ms_p50"], line["steady"]) for line in csv.DictReader(io.StringIO(text))]
    assert found.count(("12", "false")) == 1
    assert found.count(("12", "true")) == 1


def test_unsteady_points_are_open_and_say_why(show: Show, rows: list[Row]) -> None:
    page = show([*rows[:2], unsteady(rows[2], "raise <--budget-s>"), *rows[3:]])
    for plot in ("pareto", "scaling", "roofline"):
        look_at(page, plot)
        told = page.evaluate(MARKERS, plot)
        open_ones = [hover for symbol, hover in told if symbol.endswith("-open")]
        assert all("raise &lt;--budget-s&gt;" in h.replace("<br>", " ") for h in open_ones)
        assert len(open_ones) == (2 if plot == "scaling" else 1)
        assert not any("steadily" in h for symbol, h in told if not symbol.endswith("-open"))
        key = page.locator(f"#{plot}-key").text_content() or ""
        assert "hollow: not measured steadily (~)" in key


def test_a_plot_of_steady_rows_explains_no_open_points(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    assert "steadily" not in page.locator("body").inner_text()
    assert page.locator("#care").count() == 0


def test_rows_to_read_with_care_are_told_with_their_reasons(show: Show, rows: list[Row]) -> None:
    """Each reason once, with all the rows that it is of."""
    shaken = [unsteady(row, "it was busy") for row in rows[:10]]
    page = show([*shaken, failed(rows[10], EVIL), rows[11]], (failed(rows[11], "no memory"),))
    care, failures = page.locator("#care"), page.locator("#failures")
    assert care.locator("h3").all_inner_texts() == ["~ Not measured steadily"]
    assert failures.locator("h3").all_inner_texts() == [
        "Failed", "Failed after the measurement that is shown",
    ]  # fmt: skip
    told = [
        line for one in (care, failures) for line in one.locator("xpath=./ul/li").all_inner_texts()
    ]
    assert [line.split("\n")[0] for line in told] == ["it was busy", EVIL, "no memory"]
    assert [len(line.strip().split("\n")) - 1 for line in told] == [10, 1, 1]
    assert cells(page, "latency ms").count("failed") == 1  # the last one was measured before


def test_ap_stands_in_rows_of_detection_backbones_alone(show: Show, rows: list[Row]) -> None:
    """Older stores have it in rows of classification, too."""

    def told(page: Page) -> str:
        texts = (page.locator(name).inner_text() for name in ("#heads", "#accuracy", "#table"))
        return " ".join(texts)

    published = {"published_box_ap_percent": 39.5, "published_mask_ap_percent": 36.6}
    rows = [row.model_copy(update=published) for row in rows[:2]]
    assert " AP" not in told(show(rows))
    network = {"task": "detection", "image_height_px": 800, "image_width_px": 1344}
    page = show([rows[0], rows[1].model_copy(update={**network, "published_top1_percent": None})])
    assert cells(page, "box AP (COCO, Mask R-CNN 1x)") == ["-", "39.5"]
    assert "box AP, published" in page.locator("#accuracy").inner_text()
    assert "the cost in such a row is the" in page.locator("#table").inner_text()


def test_a_row_of_loadgen_shows_loadgens_figures(show: Show, rows: list[Row]) -> None:
    m = rows[0].measurement
    assert m is not None
    scenario = ScenarioResult(
        scenario="server", valid=False, reasons=(), queries=100, latency_ms_p50=50.0,
        latency_ms_p90=60.0, latency_ms_p99=70.0, throughput_images_s=9.0, target_queries_s=9.0,
        target_latency_ms=65.0, logs="", loadgen_version="6",
    )  # fmt: skip
    served = rows[0].model_copy(
        update={"scenario": "server", "measurement": m.model_copy(update={"scenario": scenario})}
    )
    assert served.efficiency is None
    page = show([served, *rows[1:]])
    place = cells(page, "scenario").index("server INVALID")
    assert cells(page, "latency ms")[place] == "50.0"
    assert points(page, "pareto") == 5  # it is of another kind, and in the table alone


def by_turns(rows: list[Row], apart: set[str]) -> list[Row]:
    """Rows that took turns; those whose mixers are named differ from all others."""

    def contrast(row: Row, other: Row) -> RowContrast:
        assert row.measurement is not None and other.measurement is not None
        known = row.stm in apart or other.stm in apart
        difference = math.log(row.measurement.latency_ms_p50) - math.log(
            other.measurement.latency_ms_p50
        )
        return RowContrast(
            key=other.key, difference=difference, error=0.01 if known else 0.5, freedom=5
        )

    keyed = [row.model_copy(update={"key": f"{i}"}) for i, row in enumerate(rows)]
    return [
        row.model_copy(
            update={"contrasts": tuple(contrast(row, other) for other in keyed if other is not row)}
        )
        for row in keyed
    ]


def test_what_took_turns_is_compared(show: Show, rows: list[Row]) -> None:
    page = show(by_turns(rows[:6], {"swin"}))
    told = page.locator("#compared ul:not(.key) > li").all_inner_texts()
    assert len(told) == 2, "a sentence for every batch"
    assert told[0].startswith(
        "Batch 1: latency over that of dcn, each with its 95 % interval: swin "
    )
    assert told[0].endswith("cannot be told apart: dcn and halo.")
    assert cells(page, "times the reference") == [
        "1.000", "1.000", "1.200", "1.200", "0.8000", "0.8000",
    ]  # fmt: skip
    assert cells(page, "group") == ["b", "b", "b", "b", "a", "a"]
    assert cells(page, "reference")[1] == "unified_dcn_micro/onnxruntime/fp32/batch8"


def test_ratios_are_drawn_relative_to_a_row_that_one_picks(show: Show, rows: list[Row]) -> None:
    page = show(by_turns(rows[:6], {"swin"}))
    look_at(page, "forest")
    (found,) = (t for t in traces(page, "forest") if t["name"] == "ratios")
    assert found["x"] == pytest.approx([1.2, 1.0, 0.8], rel=1e-3)
    labels = [str(label).strip("\u200b") for label in found["y"]]  # type: ignore[attr-defined]
    assert labels == ["halo  [b]", "dcn  [b]", "swin  [a]"]
    assert page.locator("#forest .errorbar").count() == 3
    page.locator("#forest-reference").select_option(label="halo")
    until(page, "document.getElementById('forest').data[0].x[0] === 1")
    (found,) = (t for t in traces(page, "forest") if t["name"] == "ratios")
    assert found["x"] == pytest.approx([1.0, 10 / 12, 8 / 12], rel=1e-3)
    page.locator("#forest-batch").select_option("8")
    until(page, "document.getElementById('forest').data[0].x[1] === 1")
    note = page.locator("#forest-note").inner_text()
    assert "Times the latency of unified_dcn_micro, onnxruntime, fp32" in note


def test_the_page_opens_with_the_answer(show: Show, rows: list[Row]) -> None:
    turned = by_turns(rows[:6], {"swin"})
    page = show([*turned[:5], failed(turned[5], "no memory")])
    header = page.locator("header").inner_text()
    assert "5 rows measured, 1 failed, on CPU A" in header
    assert page.locator("#answers li").all_inner_texts() == [
        "Batch 1: fastest swin (8.00 ms); most accurate halo (75.8 %, published); on the front of "
        "both: swin, dcn and halo.",
        "Batch 8: fastest dcn (80.0 ms), which cannot be told apart from halo; most accurate halo "
        "(75.8 %, published); on the front of both: dcn and halo.",
    ]
    command = page.locator("header code").inner_text()
    assert command.startswith("stmdeploy profile --stm unified_dcn_micro,unified_halo_micro")
    assert "--batch 1,8" in command


def test_what_is_chosen_stands_in_the_address(show: Show, rows: list[Row]) -> None:
    page = show(by_turns(rows, set()))
    page.get_by_role("button", name="none of mixer").click()
    assert page.locator("#shown").inner_text() == "0 of 12 rows"
    page.get_by_role("button", name="only swin").click()
    page.locator("#search").fill("cpu b")
    page.locator("#cost").select_option(label="memory, MiB")
    page.locator("#colour").select_option("device_name")
    page.locator("#borrow").check()
    page.locator(".chooser summary").click()
    page.get_by_label("bound ms, bound").uncheck()
    page.get_by_label("precision", exact=True).last.check()
    sort_by(page, "latency ms")
    assert page.locator("#shown").inner_text() == "2 of 12 rows"
    kept = page.url
    page.goto("about:blank")
    page.goto(kept)
    page.wait_for_selector("#pareto .main-svg")
    assert page.locator("#shown").inner_text() == "2 of 12 rows"
    assert set(cells(page, "mixer")) == {"swin"} and set(cells(page, "device")) == {"CPU B"}
    assert page.locator("#search").input_value() == "cpu b"
    assert page.locator("#colour").input_value() == "device_name"
    assert page.locator("#borrow").is_checked()
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("latency ms")
    heads = page.locator("#heads").inner_text()
    assert "bound ms" not in heads and "precision" in heads
    page.get_by_role("button", name="all of mixer").click()
    page.locator("#search").fill("")
    assert page.locator("#shown").inner_text() == "12 of 12 rows"


def test_groups_of_one_value_are_not_offered(show: Show, rows: list[Row]) -> None:
    page = show(rows[:6])
    legends = page.locator("#filters legend").all_inner_texts()
    assert legends == ["search", "looks", "mixer", "batch"]
    heads = page.locator("#heads").inner_text()
    assert "runtime" not in heads, "all rows have the same one"


def test_a_precision_without_an_accuracy_says_why(show: Show, rows: list[Row]) -> None:
    low = rows[0].model_copy(update={"precision": "int8", "published_top1_percent": None})
    page = show([low, *rows])
    told = page.locator("#pareto-note").inner_text()
    assert "1 rows of int8 have none of their own: what is published is of fp32" in told
    assert "stmdeploy evaluate ARTIFACT --data FOLDER" in told
    assert points(page, "pareto") == 6
    page.locator("#borrow").check()
    until(page, "document.querySelectorAll('#pareto path.point').length === 7")
    assert "1 stand at the accuracy of fp32" in page.locator("#pareto-note").inner_text()
    symbols = [symbol for symbol, _ in page.evaluate(MARKERS, "pareto")]
    assert [one for one in symbols if one.endswith("-open-dot")] != []


def test_a_plot_without_data_says_why(show: Show, rows: list[Row]) -> None:
    bare = [row.model_copy(update={"bound": None, "parts_ms": {}}) for row in rows[:3]]
    page = show(bare)
    for plot, why in (("roofline", "has a bound"), ("parts", "tells where its time goes")):
        look_at(page, plot)
        assert why in (page.locator(f"#{plot}").text_content() or "")


def test_a_colour_means_the_same_everywhere(show: Show, rows: list[Row]) -> None:
    page = show(by_turns(rows, set()))
    expected = colours_of({"dcn", "halo", "swin"})
    items = page.locator("#pareto-key li").evaluate_all(
        "all => all.map(e => [e.textContent.slice(1).trim(), e.firstChild.style.color])"
    )
    told = {name: colour for name, colour in items if name in expected}
    rgb = {n: tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for n, c in expected.items()}
    assert {n: tuple(map(int, re.findall(r"\d+", c))) for n, c in told.items()} == rgb
    page.get_by_role("checkbox", name="dcn", exact=True).uncheck()
    for plot in ("pareto", "roofline", "forest"):
        look_at(page, plot)
        until(page, f"!document.getElementById('{plot}-key').textContent.includes('dcn')")
        drawn = page.evaluate(
            "id => [...new Set(document.getElementById(id).data.filter(t => t.marker)"
            ".flatMap(t => t.marker.color))]", plot
        )  # fmt: skip
        assert set(drawn) == {expected["halo"], expected["swin"]}, plot


def test_what_took_no_turns_is_not_compared(show: Show, rows: list[Row]) -> None:
    page = show(rows)
    assert page.locator("#compared").count() == 0
    assert "group" not in page.locator("#heads").inner_text()


def test_the_data_of_a_page(rows: list[Row]) -> None:
    data = page_data(rows)
    first = dict(zip(data["keys"], data["rows"][0], strict=True))
    assert first["efficiency_percent"] == 50
    assert first["top1_kind"] == "published"
    shares = dict(zip(data["kinds"], data["shares"][0], strict=True))
    assert shares["mixer"] == 50
    assert sum(shares.values()) == 100
    assert len(data["roofs"]) == 2
