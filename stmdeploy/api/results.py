"""Measured rows as a person looks at them in Python: frames, ratios, plots."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from stmdeploy.errors import StmdeployError
from stmdeploy.schema.row import Row

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PlotKind = Literal["accuracy", "ratios", "throughput"]


class Results:
    """Rows of one sweep, or the newest of all.

    Attributes:
        rows: what was measured, and what failed.
        sweep: id of the sweep; empty for the newest rows of several.
        reference: words of the name of the row that others are compared with; empty for convnext,
            or else the first row.
        folder: the store that they are from.
    """

    def __init__(
        self, rows: tuple[Row, ...], *, sweep: str = "", reference: str = "", folder: Path
    ) -> None:
        self.rows, self.sweep, self.reference, self.folder = rows, sweep, reference, folder

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Results: ...

    def __getitem__(self, place: int | slice) -> Row | Results:
        if isinstance(place, int):
            return self.rows[place]
        rows, known = self.rows[place], {"sweep": self.sweep, "reference": self.reference}
        return Results(rows, folder=self.folder, **known)

    def __repr__(self) -> str:
        failed = sum(row.failure is not None for row in self.rows)
        told = f", {failed} failed" if failed else ""
        return f"<Results: {len(self.rows)} rows{told}, {self.sweep or 'newest'} of {self.folder}>"

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed; ``row.failure`` says why."""
        return tuple(row for row in self.rows if row.failure is not None)

    def to_pandas(self) -> pd.DataFrame:
        """One line for every row, one column for every figure; units are in the names.

        >>> results.to_pandas()[["model", "batch", "latency_ms_p50"]]  # doctest: +SKIP
        """
        from stmdeploy.results.frame import to_frame

        return to_frame(self.rows)

    def ratios(self, reference: str | None = None) -> pd.DataFrame:
        """How many times the latency of a reference every row takes, by turns.

        Args:
            reference: words of its name, such as ``"swin/openvino"``; None for that of the sweep.

        Returns:
            Columns ``row``, ``reference``, ``ratio``, ``ratio_low`` and ``ratio_high`` (a 95 %
            interval) and ``group``: rows of one batch that share a letter cannot be told apart.
            Rows that took no turns with the reference are left out.
        """
        import pandas as pd

        from stmdeploy.report.ratios import BESIDE, compared, figures_beside, name_of

        found = compared(self.rows, self.reference if reference is None else reference)
        beside = figures_beside(self.rows, found)
        lines = [
            {"row": name_of(self.rows[one.row]), **beside[one.row]}
            for one in found
            if one.ratio is not None
        ]
        return pd.DataFrame(lines, columns=["row", *BESIDE])

    def plot(self, kind: PlotKind = "accuracy") -> go.Figure:
        """A figure by plotly.

        Args:
            kind: ``accuracy`` over latency per image, with the front of rows that no other beats in
                both; ``ratios`` to the reference, as a forest plot; ``throughput`` over batches.

        Raises:
            StmdeployError: no row has what the figure shows.
        """
        from stmdeploy.report.plotted import PLOTS

        if kind not in PLOTS:
            raise StmdeployError(f"unknown plot {kind!r}", f"choose one of: {', '.join(PLOTS)}")
        return PLOTS[kind](self.rows, self.reference)

    def report(self, path: str | Path) -> Path:
        """Writes the rows as one HTML page that needs no network, and gives its path.

        Raises:
            StmdeployError: the file cannot be written.
        """
        from stmdeploy.files.writing import write_atomically
        from stmdeploy.report.page import report_page
        from stmdeploy.results.state import now_utc

        title = f"stmdeploy: {self.sweep or 'newest rows'}"
        page = report_page(self.rows, title, now_utc(), reference=self.reference)
        path = Path(path)
        write_atomically(path, page)
        return path

    def _repr_html_(self) -> str:
        """The table that the command line prints, for notebooks."""
        from stmdeploy.report.profile_table import profile_table

        table = profile_table(self.rows, self.reference)

        def line(cells: tuple[str, ...], tag: str) -> str:
            return "".join(
                f'<{tag} style="text-align:{"left" if i < table.left else "right"}">'
                f"{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )

        body = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in table.cells)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
        head = f"<thead><tr>{line(table.headers, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>{notes}"


def load_results(
    path: str | Path = "stmdeploy-results", sweep: str | None = None, *, newest: bool = False
) -> Results:
    """Reads what was measured.

    Args:
        path: folder of a store, its file, or a PostgreSQL URL.
        sweep: id of a sweep, or the beginning of it; None for the newest.
        newest: whether to give the newest measurement of every row of all sweeps instead.

    Raises:
        StmdeployError: there is no store, or no such sweep.

    >>> stmdeploy.load_results("stmdeploy-results").ratios()  # doctest: +SKIP
    """
    from stmdeploy.results.store import Store

    text = str(path)
    is_url = "://" in text
    store = Store(Path("stmdeploy-results") if is_url else Path(path), url=text if is_url else "")
    try:
        if newest:
            return Results(store.newest_states().rows, folder=store.folder)
        info = store.find_sweep(sweep)
        try:
            reference = store.asked(info.id).reference
        except StmdeployError:  # damaged; its rows are not
            reference = ""
        rows = store.rows(info.id)
        return Results(rows, sweep=info.id, reference=reference, folder=store.folder)
    finally:
        store.close()
