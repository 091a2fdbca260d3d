"use strict";
// Filters, the table and downloads. Whatever comes from a row reaches the page as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows.map((values, i) => {
    const row = Object.fromEntries(data.keys.map((key, k) => [key, values[k]]));
    row.shares = data.shares[i];
    row.place = i;
    return row;
  });
  const dimensions = [
    ["stm", "mixer"], ["scale", "scale"], ["runtime", "runtime"], ["precision", "precision"],
    ["device_name", "device"], ["batch", "batch"], ["task", "task"], ["image", "image"],
    ["scenario", "scenario"],
  ].filter(([key], i) => i < 6 || distinct(rows, key).length > 1);
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  const off = new Map(dimensions.map(([key]) => [key, new Set()]));
  const state = { sort: null, descending: false, page: 0, pending: 0 };
  const $ = (id) => document.getElementById(id);

  function element(name, text, parent) {
    const made = document.createElement(name);
    if (text !== null) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function buildFilters() {
    for (const [key, title] of dimensions) {
      const group = element("fieldset", null, $("filters"));
      element("legend", title, group);
      for (const value of distinct(rows, key).sort(order)) {
        const label = element("label", null, group);
        const box = element("input", null, label);
        box.type = "checkbox";
        box.checked = true;
        box.name = key;
        box.value = value;
        label.append(` ${value}`);
        box.addEventListener("change", () => {
          if (box.checked) off.get(key).delete(value);
          else off.get(key).add(value);
          state.page = 0;
          update();
        });
      }
    }
  }

  function fill(select, entries, chosen) {
    entries.forEach(([value, label]) => {
      const option = element("option", label, select);
      option.value = value;
    });
    select.value = chosen;
    select.addEventListener("change", update);
  }

  function buildChoices() {
    const has = (axis) => rows.some((row) => row[axis.key] !== null);
    const index = (list) => list.map((axis, i) => [i, axis]).filter(([, axis]) => has(axis));
    const options = (list) => index(list).map(([i, axis]) => [i, axis.label]);
    fill($("accuracy"), options(ACCURACIES), (index(ACCURACIES)[0] || [0])[0]);
    fill($("cost"), options(COSTS), (index(COSTS)[0] || [0])[0]);
    const batches = distinct(rows, "batch").sort(order);
    fill($("batch"), [...batches.map((batch) => [batch, batch]), ["all", "all"]], batches[0]);
  }

  // LoadGen's rows have latencies of another kind, failed ones none; the table alone has them.
  const drawn = (ignored) => left(ignored).filter((row) => row.scenario === "loop" && row.failure === null);

  function left(ignored) {
    return rows.filter((row) => dimensions.every(([key]) => key === ignored || !off.get(key).has(row[key])));
  }

  function sorted(some) {
    if (state.sort === null) return some;
    const sign = state.descending ? -1 : 1, key = state.sort;
    return [...some].sort((a, b) => {
      if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
      return sign * order(a[key], b[key]);
    });
  }

  const LATENCY = "latency_ms_p50", FAILURE = "failure";
  // Columns that say something: not those without any value, but for the one that says "failed".
  const columns = data.columns.filter(({ key }) => key === LATENCY || rows.some((row) => row[key] !== null));
  const isNumber = (column) => rows.some((row) => typeof row[column.key] === "number");

  function buildHeads() {
    for (const column of columns) {
      const head = element("th", null, $("heads"));
      head.scope = "col";
      if (!isNumber(column)) head.className = "words";
      if (column.key === FAILURE) head.classList.add("long");
      const button = element("button", column.label, head);
      button.type = "button";
      if (column.origin !== "row") element("small", column.origin, button);
      button.addEventListener("click", () => {
        state.descending = state.sort === column.key ? !state.descending : false;
        state.sort = column.key;
        state.page = 0;
        [...$("heads").children].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
        showTable(left());
      });
    }
  }

  function text(value, column) {
    if (value === null) return "-";
    if (typeof value !== "number" || column.digits === null) return String(value);
    return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(column.digits)));
  }

  function cell(row, column, line) {
    const made = element("td", text(row[column.key], column), line);
    if (!isNumberOf.get(column.key)) made.className = "words";
    if (column.key === FAILURE) made.classList.add("long");
    if (column.key !== LATENCY) return;
    if (row.failure !== null) {
      made.textContent = "failed";
      made.classList.add("failed");
      made.title = row.failure;
    } else if (row.steady === false) {
      made.prepend(data.unsteady);
      made.title = row.advice;
    }
  }

  function showTable(some) {
    const size = Number($("page-size").value), pages = Math.max(1, Math.ceil(some.length / size));
    state.page = Math.min(state.page, pages - 1);
    const body = document.createDocumentFragment();
    for (const row of sorted(some).slice(state.page * size, (state.page + 1) * size)) {
      const line = element("tr", null, body);
      columns.forEach((column) => cell(row, column, line));
    }
    $("body").replaceChildren(body);
    $("page").textContent = `page ${state.page + 1} of ${pages}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === pages - 1;
  }
  const isNumberOf = new Map(columns.map((column) => [column.key, isNumber(column)]));

  function download(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function csv(some) {
    // Spreadsheets run what begins like a formula.
    const quoted = (value) => {
      if (value === null) return "";
      const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
      return /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    };
    const keys = data.columns.map((column) => column.key);
    return [keys, ...some.map((row) => keys.map((key) => row[key]))].map((line) => line.map(quoted).join(",")).join("\n");
  }

  function json(some) {
    const keys = data.columns.map((column) => column.key);
    return JSON.stringify({ rows: some.map((row) => Object.fromEntries(keys.map((key) => [key, row[key]]))) }, null, 1);
  }

  const all = { stms: distinct(rows, "stm").sort(), devices: distinct(rows, "device_name").sort() };
  const plots = {
    pareto: () => {
      const batch = $("batch").value;
      const at = batch === "all" ? drawn() : drawn("batch").filter((row) => String(row.batch) === batch);
      drawPareto(at, all, ACCURACIES[Number($("accuracy").value)], COSTS[Number($("cost").value)]);
    },
    scaling: () => drawScaling(drawn(), all),
    roofline: () => drawRoofline(drawn().filter((row) => row.in_flight === 1), all, data.roofs),
    parts: () => drawParts(drawn(), data.kinds),
  };
  if (data.invariances.length) plots.invariance = () => drawInvariance(left(), all, data.invariances);
  // A plot is drawn when it comes into sight, and again when something changes while it is there.
  const stale = new Set(Object.keys(plots)), inSight = new Set();

  function drawStale(names) {
    for (const name of names) {
      if (stale.delete(name)) plots[name]();
    }
  }

  function drawAgain() {
    Object.keys(plots).forEach((name) => stale.add(name));
    drawStale(matchMedia("print").matches ? Object.keys(plots) : inSight);
  }

  function watchPlots() {
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (isIntersecting) inSight.add(target.id);
        else inSight.delete(target.id);
      }
      drawStale(inSight);
    }, { rootMargin: "200px" });
    Object.keys(plots).forEach((name) => observer.observe($(name)));
  }

  function update() {
    const some = left();
    $("shown").textContent = `${some.length} of ${rows.length} rows`;
    showTable(some);
    // Checkboxes answer at once; plots follow when the hand rests.
    cancelAnimationFrame(state.pending);
    state.pending = requestAnimationFrame(drawAgain);
  }

  buildFilters();
  buildChoices();
  buildHeads();
  $("page-size").addEventListener("change", () => { state.page = 0; showTable(left()); });
  $("previous").addEventListener("click", () => { state.page -= 1; showTable(left()); });
  $("next").addEventListener("click", () => { state.page += 1; showTable(left()); });
  $("download-csv").addEventListener("click", () => download("stmdeploy.csv", "text/csv", csv(sorted(left()))));
  $("download-json").addEventListener("click", () => download("stmdeploy.json", "application/json", json(sorted(left()))));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  matchMedia("print").addEventListener("change", drawAgain);
  NARROW.addEventListener("change", drawAgain);
  watchPlots();
  update();
})();
