"use strict";
// Filters, the table, downloads and the address. Whatever comes from a row reaches the page as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows.map((values, i) => {
    const row = Object.fromEntries(data.keys.map((key, k) => [key, values[k]]));
    row.shares = data.shares[i];
    row.place = i;
    row.words = ["model", "stm", "scale", "runtime", "precision", "device_name", "image", "lowering", "scenario", "task", "failure"]
      .map((key) => row[key] || "").join(" ").toLowerCase();
    return row;
  });
  const contrasts = new Map(data.contrasts.flatMap(([i, j, difference, half]) =>
    [[`${i} ${j}`, [difference, half]], [`${j} ${i}`, [-difference, half]]]));
  // A group of one value would filter nothing.
  const dimensions = [
    ["stm", "mixer"], ["scale", "scale"], ["runtime", "runtime"], ["precision", "precision"],
    ["device_name", "device"], ["batch", "batch"], ["task", "task"], ["image", "image"],
    ["scenario", "scenario"],
  ].filter(([key]) => distinct(rows, key).length > 1);
  const looks = new Looks(rows, data.palette, data.colours);
  const off = new Map(dimensions.map(([key]) => [key, new Set()]));
  const hidden = new Set();
  const state = { sort: null, descending: false, page: 0, pending: 0 };
  const $ = (id) => document.getElementById(id);

  const boxes = [];
  function buildFilters() {
    for (const [key, title] of dimensions) {
      const group = element("fieldset", null, $("filters"));
      element("legend", title, group);
      const set = (value, on) => (on ? off.get(key).delete(value) : off.get(key).add(value));
      const values = distinct(rows, key).sort(inOrder);
      const many = element("span", null, group);
      many.className = "many";
      for (const [word, keep] of [["all", () => true], ["none", () => false]]) {
        const button = element("button", word, many);
        button.type = "button";
        button.setAttribute("aria-label", `${word} of ${title}`);
        button.addEventListener("click", () => { values.forEach((value) => set(value, keep())); changed(); });
      }
      for (const value of values) {
        const line = element("span", null, group);
        line.className = "choice";
        const label = element("label", null, line);
        const box = element("input", null, label);
        box.type = "checkbox";
        box.name = key;
        box.value = value;
        label.append(` ${value}`);
        box.addEventListener("change", () => { set(value, box.checked); changed(); });
        const only = element("button", "only", line);
        only.type = "button";
        only.setAttribute("aria-label", `only ${value}`);
        only.addEventListener("click", () => { values.forEach((other) => set(other, other === value)); changed(); });
        boxes.push([box, key, value]);
      }
    }
  }

  function changed() {
    state.page = 0;
    update();
  }

  function fill(select, entries, chosen) {
    select.replaceChildren();
    entries.forEach(([value, label]) => {
      element("option", label, select).value = value;
    });
    select.value = String(chosen);
    if (select.selectedIndex < 0) select.selectedIndex = 0;
    select.usual = select.value;
  }

  function buildChoices() {
    const has = (axis) => rows.some((row) => row[axis.key] !== null);
    const index = (list) => list.map((axis, i) => [i, axis]).filter(([, axis]) => has(axis));
    const options = (list) => index(list).map(([i, axis]) => [i, axis.label]);
    fill($("accuracy"), options(ACCURACIES).length ? options(ACCURACIES) : [[0, ACCURACIES[0].label]], (index(ACCURACIES)[0] || [0])[0]);
    fill($("cost"), options(COSTS).length ? options(COSTS) : [[0, COSTS[0].label]], (index(COSTS)[0] || [0])[0]);
    const batches = distinct(rows, "batch").sort(inOrder);
    fill($("batch"), [...batches.map((batch) => [batch, batch]), ["all", "all"]], batches[0]);
    const kinds = KINDS_OF_LOOK.filter(([key]) => looks.choices.includes(key));
    fill($("colour"), kinds.length ? kinds : [["stm", "mixer"]], looks.colour);
    fill($("shape"), [["", "nothing"], ...kinds], looks.shape);
    fill($("panels"), [["", "one panel"], ...kinds.filter(([key]) => distinct(rows, key).length <= MOST_PANELS)], "");
    if ($("forest-batch")) {
      const compared = Object.keys(data.references);
      fill($("forest-batch"), compared.map((batch) => [batch, batch]), compared[0]);
      fillReferences();
    }
    if ($("history-row")) {
      const stepped = data.histories.findIndex((one) => one.steps.length);
      fill($("history-row"), data.histories.map((one, i) => [i, one.name]), Math.max(0, stepped));
    }
  }

  function fillReferences() {
    const batch = $("forest-batch").value;
    const some = rows.filter((row) => String(row.batch) === batch && row.group !== null), name = namer(some, ["batch"]);
    fill($("forest-reference"), some.map((row) => [row.place, name(row)]), data.references[batch]);
  }

  // LoadGen's rows have latencies of another kind, failed ones none; the table alone has them.
  const drawn = (ignored) => left(ignored).filter((row) => row.scenario === "loop" && row.failure === null);

  function left(ignored) {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return rows.filter((row) => dimensions.every(([key]) => key === ignored || !off.get(key).has(row[key])) &&
      words.every((word) => row.words.includes(word)));
  }

  function sorted(some) {
    if (state.sort === null) return some;
    const sign = state.descending ? -1 : 1, key = state.sort;
    return [...some].sort((a, b) => {
      if (a[key] === null || b[key] === null) return (a[key] === null) - (b[key] === null);
      return sign * inOrder(a[key], b[key]);
    });
  }

  const LATENCY = "latency_ms_p50", FAILURE = "failure", NAME = "model";
  // Columns that say something: not those without any value, but for the one that says "failed".
  const columns = data.columns.filter(({ key }) => key === LATENCY || rows.some((row) => row[key] !== null));
  const isNumber = new Map(columns.map(({ key }) => [key, rows.some((row) => typeof row[key] === "number")]));
  // Settings that all rows share are told below the table; their columns can be chosen.
  const usuallyHidden = new Set(columns.filter(({ key, origin }) => origin === "row" && key !== NAME && key !== FAILURE &&
    rows.length > 1 && distinct(rows, key).length === 1).map(({ key }) => key));
  usuallyHidden.forEach((key) => hidden.add(key));
  const shownColumns = () => columns.filter(({ key }) => !hidden.has(key));

  // Columns that fit on a sheet of paper.
  const PRINTED = new Set(["model", "runtime", "precision", "device_name", "batch", "top1", "published_top1_percent", "measured_top1_percent",
    LATENCY, "latency_ms_p50_low", "latency_ms_p50_high", "ratio", "group", "throughput_images_s", "efficiency_percent", "memory_mib", "gmacs", "params_m"]);

  const columnBoxes = [];
  function buildColumns() {
    for (const { key, label, origin } of columns) {
      if (key === NAME) continue;
      const choice = element("label", null, $("columns"));
      const box = element("input", null, choice);
      box.type = "checkbox";
      choice.append(` ${label}${origin === "row" ? "" : `, ${origin}`}`);
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(key);
        else hidden.add(key);
        buildHeads();
        update();
      });
      columnBoxes.push([box, key]);
    }
  }

  function buildHeads() {
    $("heads").replaceChildren();
    for (const column of shownColumns()) {
      const head = element("th", null, $("heads"));
      head.scope = "col";
      if (!isNumber.get(column.key)) head.className = "words";
      if (column.key === FAILURE) head.classList.add("long");
      if (!PRINTED.has(column.key)) head.classList.add("screen");
      const button = element("button", column.label, head);
      button.type = "button";
      if (column.origin !== "row") element("small", column.origin, button);
      if (state.sort === column.key) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      button.addEventListener("click", () => {
        state.descending = state.sort === column.key ? !state.descending : false;
        state.sort = column.key;
        state.page = 0;
        [...$("heads").children].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
        showTable(left());
        remember();
      });
    }
  }

  function text(value, column) {
    if (value === null) return "-";
    if (typeof value !== "number" || column.digits === null) return String(value);
    return significant(value, column.digits);
  }

  function cell(row, column, line) {
    const made = element("td", text(row[column.key], column), line);
    if (!isNumber.get(column.key)) made.className = "words";
    if (column.key === FAILURE) made.classList.add("long");
    if (!PRINTED.has(column.key)) made.classList.add("screen");
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
    const body = document.createDocumentFragment(), shown = shownColumns();
    for (const row of sorted(some).slice(state.page * size, (state.page + 1) * size)) {
      const line = element("tr", null, body);
      shown.forEach((column) => cell(row, column, line));
    }
    $("body").replaceChildren(body);
    $("page").textContent = `page ${state.page + 1} of ${pages}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === pages - 1;
  }

  function download(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
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
      const told = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
      return /[",\n]/.test(told) ? `"${told.replace(/"/g, '""')}"` : told;
    };
    const keys = data.columns.map((column) => column.key);
    return [keys, ...some.map((row) => keys.map((key) => row[key]))].map((line) => line.map(quoted).join(",")).join("\n");
  }

  function json(some) {
    const keys = data.columns.map((column) => column.key);
    return JSON.stringify({ rows: some.map((row) => Object.fromEntries(keys.map((key) => [key, row[key]]))) }, null, 1);
  }

  const plots = {
    pareto: () => {
      const batch = $("batch").value;
      const at = batch === "all" ? drawn() : drawn("batch").filter((row) => String(row.batch) === batch);
      drawPareto(at, rows.filter((row) => row.failure === null), looks, {
        accuracy: ACCURACIES[Number($("accuracy").value)], cost: COSTS[Number($("cost").value)],
        panels: $("panels").value, borrow: $("borrow").checked,
      });
    },
    scaling: () => drawScaling(drawn(), looks),
    roofline: () => drawRoofline(drawn().filter((row) => row.in_flight === 1), looks, data.roofs),
    parts: () => drawParts(drawn(), data.kinds, data.palette),
  };
  if ($("forest")) {
    plots.forest = () => {
      const batch = $("forest-batch").value, reference = rows[Number($("forest-reference").value)];
      drawForest(drawn("batch").filter((row) => String(row.batch) === batch && row.group !== null), looks, contrasts, reference);
    };
  }
  if ($("invariance")) plots.invariance = () => drawInvariance(left(), looks, data.invariances);
  if ($("history")) plots.history = () => drawHistory(data.histories[Number($("history-row").value)]);
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

  const SELECTS = ["accuracy", "cost", "batch", "colour", "shape", "panels", "forest-batch", "forest-reference", "history-row", "page-size"];

  // What is chosen, in the address: it can be kept, and sent to somebody who has the page.
  function remember() {
    const words = new URLSearchParams();
    for (const [key, values] of off) values.forEach((value) => words.append(`no-${key}`, value));
    if ($("search").value) words.set("search", $("search").value);
    if (state.sort !== null) words.set("sort", (state.descending ? "-" : "") + state.sort);
    for (const { key } of columns) {
      if (hidden.has(key) !== usuallyHidden.has(key)) words.append(hidden.has(key) ? "hide" : "show", key);
    }
    for (const id of SELECTS) if ($(id) && $(id).value !== $(id).usual) words.set(id, $(id).value);
    if ($("borrow").checked) words.set("borrow", "1");
    const told = words.toString();
    if (told || location.hash.includes("=")) history.replaceState(null, "", told ? `#${told}` : location.pathname + location.search);
  }

  function recall() {
    if (!location.hash.includes("=")) return;
    const words = new URLSearchParams(location.hash.slice(1));
    for (const [key] of dimensions) {
      const chosen = new Set(words.getAll(`no-${key}`));
      off.set(key, new Set(distinct(rows, key).filter((value) => chosen.has(String(value)))));
    }
    $("search").value = words.get("search") || "";
    const sort = words.get("sort") || "";
    const key = sort.replace(/^-/, "");
    if (columns.some((column) => column.key === key)) [state.sort, state.descending] = [key, sort.startsWith("-")];
    for (const column of columns) {
      if (words.getAll("hide").includes(column.key)) hidden.add(column.key);
      if (words.getAll("show").includes(column.key)) hidden.delete(column.key);
    }
    for (const id of SELECTS) {
      const select = $(id), value = words.get(id);
      if (!select || value === null || ![...select.options].some((option) => option.value === value)) continue;
      select.value = value;
      if (id === "forest-batch") fillReferences();
    }
    $("borrow").checked = words.get("borrow") === "1";
  }

  function update() {
    const some = left();
    looks.colour = $("colour").value;
    looks.shape = $("shape").value;
    for (const [box, key, value] of boxes) box.checked = !off.get(key).has(value);
    for (const [box, key] of columnBoxes) box.checked = !hidden.has(key);
    $("shown").textContent = `${some.length} of ${rows.length} rows`;
    showTable(some);
    remember();
    // Checkboxes answer at once; plots follow when the hand rests.
    cancelAnimationFrame(state.pending);
    state.pending = requestAnimationFrame(drawAgain);
  }

  buildFilters();
  buildChoices();
  $("page-size").usual = $("page-size").value;
  buildColumns();
  recall();
  buildHeads();
  for (const id of SELECTS.filter((one) => $(one) && one !== "page-size")) {
    $(id).addEventListener("change", () => {
      if (id === "forest-batch") fillReferences();
      update();
    });
  }
  $("borrow").addEventListener("change", update);
  $("search").addEventListener("input", changed);
  $("page-size").addEventListener("change", changed);
  $("previous").addEventListener("click", () => { state.page -= 1; showTable(left()); });
  $("next").addEventListener("click", () => { state.page += 1; showTable(left()); });
  $("download-csv").addEventListener("click", () => download("stmdeploy.csv", "text/csv", csv(sorted(left()))));
  $("download-json").addEventListener("click", () => download("stmdeploy.json", "application/json", json(sorted(left()))));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAgain);
  matchMedia("print").addEventListener("change", drawAgain);
  NARROW.addEventListener("change", drawAgain);
  if (NARROW.matches) $("filters-box").open = false;
  watchPlots();
  update();
})();
