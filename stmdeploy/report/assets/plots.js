"use strict";
// The plots: each takes the rows that the filters leave, and draws them with Plotly.

const ACCURACIES = [
  { key: "top1", label: "top-1 %, measured, else published", low: "top1_low", high: "top1_high" },
  { key: "measured_top1_percent", label: "top-1 %, measured", low: "top1_low", high: "top1_high" },
  { key: "published_top1_percent", label: "top-1 %, published" },
  { key: "consistency_percent", label: "consistency %, measured", low: "consistency_percent_low", high: "consistency_percent_high" },
  { key: "published_box_ap_percent", label: "box AP, published" },
  { key: "published_mask_ap_percent", label: "mask AP, published" },
];
const COSTS = [
  { key: "latency_ms_p50", label: "latency of the batch, ms", low: "latency_ms_p50_low", high: "latency_ms_p50_high" },
  { key: "latency_per_image_ms", label: "latency per image, ms" },
  { key: "throughput_images_s", label: "throughput, images/s", more: true },
  { key: "memory_mib", label: "memory, MiB" },
  { key: "energy_j_per_image", label: "energy, J per image" },
  { key: "gmacs", label: "GMACs per image, counted" },
  { key: "params_m", label: "parameters, M, counted" },
];

// Those that no other one beats in both; points are {x, y}.
function front(points, more) {
  const ordered = [...points].sort((a, b) => (more ? b.x - a.x : a.x - b.x) || b.y - a.y);
  const kept = [];
  for (const point of ordered) {
    if (!kept.length || point.y > kept[kept.length - 1].y) kept.push(point);
  }
  return kept;
}

// Rows without an accuracy of their own, with that of the same model in fp32.
function borrowed(rows, every, key) {
  const known = new Map();
  const who = (row) => [row.model, row.image, row.task, row.neck].join("|");
  for (const row of every) if (row.precision === "fp32" && row[key] !== null) known.set(who(row), row[key]);
  return rows.filter((row) => row[key] === null && known.has(who(row))).map((row) => ({ row, y: known.get(who(row)) }));
}

// Why rows have no accuracy, and what would measure it.
function whyNone(rows) {
  if (!rows.length) return "";
  const low = rows.filter((row) => row.precision !== "fp32"), told = [];
  const rest = rows.length - low.length;
  if (low.length) {
    const names = distinct(low, "precision").sort().join(", ");
    told.push(`${low.length} rows of ${names} have none of their own: what is published is of fp32`);
  }
  if (rest) told.push(`${rest} ${rest === 1 ? "row has" : "rows have"} none: nobody published one of that very model at that size`);
  return ` ${told.join("; ")}. It is measured by: stmdeploy evaluate ARTIFACT --data FOLDER.`;
}

function drawPareto(rows, every, looks, options) {
  const { accuracy, cost, panels } = options;
  const costed = rows.filter((row) => row[cost.key] !== null);
  const points = costed.filter((row) => row[accuracy.key] !== null).map((row) => ({ row, x: row[cost.key], y: row[accuracy.key], own: true }));
  const guests = options.borrow ? borrowed(costed, every, accuracy.key).map(({ row, y }) => ({ row, x: row[cost.key], y, own: false })) : [];
  const note = document.getElementById("pareto-note");
  const lacking = costed.filter((row) => row[accuracy.key] === null);
  if (!points.length && !guests.length) {
    note.textContent = "";
    return nothing("pareto", `No row that the filters leave has both figures.${whyNone(lacking)}`);
  }
  note.textContent = `${points.length} of ${rows.length} rows have both. Dotted lines join what no other row on that device beats in both.` +
    whyNone(lacking) + (guests.length ? ` ${guests.length} stand at the accuracy of fp32, hollow with a dot: it is not theirs.` : "") +
    (points.length > MOST_INTERVALS ? " Intervals are drawn for fewer rows; pointing at a row tells its own." : "");
  const all = [...points, ...guests];
  const values = panels ? distinct(all.map((p) => p.row), panels).sort(inOrder).slice(0, MOST_PANELS) : [null];
  const traces = [], items = [], annotations = [], axes = {};
  const across = NARROW.matches ? 1 : Math.min(3, values.length);
  const name = namer(all.map((p) => p.row), panels ? [panels] : []);
  values.forEach((value, panel) => {
    const suffix = panel ? String(panel + 1) : "";
    const at = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
    const here = (some) => some.filter((p) => value === null || p.row[panels] === value);
    distinct(here(points).map((p) => p.row), "device_name").forEach((device) => {
      const best = front(here(points).filter((p) => p.row.device_name === device), cost.more);
      traces.push({
        ...at, type: "scatter", mode: "lines", name: `front, ${plain(device)}`, hoverinfo: "skip",
        x: best.map((p) => p.x), y: best.map((p) => p.y), line: { color: GREY, dash: "dot", width: 2 },
      });
    });
    traces.push({ ...at, ...scatter(here(points), looks, points.length, accuracy, cost) });
    if (here(guests).length) traces.push({ ...at, ...guestScatter(here(guests), looks, cost) });
    if (all.length <= MOST_LABELS) {
      items.push(...here(all).map((p) => ({ x: p.x, y: p.y, text: name(p.row), suffix, colour: looks.colourOf(p.row) })));
    }
    axes[`xaxis${suffix}`] = {
      type: "log", ...logTicks(all.map((p) => p.x)), ...(panel ? { matches: "x" } : {}),
      title: panel >= values.length - across ? { text: cost.label } : undefined,
    };
    axes[`yaxis${suffix}`] = { ...(panel ? { matches: "y" } : {}), title: panel % across ? undefined : { text: accuracy.label } };
    if (value !== null) {
      annotations.push({ text: `<b>${plain(value)}</b>`, showarrow: false, xref: `x${suffix} domain`, yref: `y${suffix} domain`, x: 0.5, y: 1, yanchor: "bottom" });
    }
  });
  const deep = Math.ceil(values.length / across);
  document.getElementById("pareto").style.height = `${NARROW.matches ? 26 * deep : Math.max(30, 24 * deep)}rem`;
  showKey("pareto", [...looks.entries(all.map((p) => p.row)), { text: "front", dash: "dot", colour: GREY }]);
  const grid = values.length > 1 ? { grid: { rows: deep, columns: across, pattern: "independent", ygap: 0.25 } } : {};
  return draw("pareto", traces, { ...axes, ...grid, annotations }, items);
}

function scatter(some, looks, total, accuracy, cost) {
  const few = total <= MOST_INTERVALS;
  const spread = (axis, at) => {
    if (!few || !axis.low) return undefined;
    const ends = (key, sign) => some.map((p) => (p.row[key] === null ? 0 : sign * (p.row[key] - p[at])));
    return { type: "data", symmetric: false, array: ends(axis.high, 1), arrayminus: ends(axis.low, -1), thickness: 1, color: GREY, width: 3 };
  };
  const interval = (p) => (cost.low ? ` (95 %: ${significant(p.row[cost.low])} .. ${significant(p.row[cost.high])})` : "");
  return {
    type: "scatter", mode: "markers", name: "rows", cliponaxis: false,
    x: some.map((p) => p.x), y: some.map((p) => p.y),
    hovertext: some.map((p) => `${described(p.row)}<br>${cost.label}: ${significant(p.x)}${interval(p)}` +
      `<br>${accuracy.label}: ${significant(p.y)}${accuracy.key === "top1" ? ` (${plain(p.row.top1_kind)})` : ""}${advised(p.row)}`),
    hovertemplate: "%{hovertext}<extra></extra>",
    error_x: spread(cost, "x"), error_y: spread(accuracy, "y"), marker: marked(some.map((p) => p.row), looks, 10),
  };
}

function guestScatter(some, looks, cost) {
  const colours = some.map((p) => looks.colourOf(p.row));
  return {
    type: "scatter", mode: "markers", name: "at the accuracy of fp32", cliponaxis: false, x: some.map((p) => p.x), y: some.map((p) => p.y), opacity: 0.7,
    hovertext: some.map((p) => `${described(p.row)}<br>${cost.label}: ${significant(p.x)}<br>at the accuracy of fp32, ${significant(p.y)}, which is not its own`),
    hovertemplate: "%{hovertext}<extra></extra>",
    marker: { size: 10, color: colours, symbol: some.map((p) => `${looks.symbolOf(p.row)}-open-dot`), line: { color: colours, width: 2 } },
  };
}

// Latency over that of a row that one picks, by turns.
function drawForest(rows, looks, contrasts, reference) {
  const some = rows.map((row) => ({ row, ...ratioOf(row.place, reference.place, contrasts) })).filter((one) => one.ratio !== undefined);
  const apart = rows.length - some.length;
  document.getElementById("forest-note").textContent =
    `Times the latency of ${reference.model}, ${reference.runtime}, ${reference.precision}, with 95 % intervals; left of 1 is faster. ` +
    "Rows that share a letter cannot be told apart." +
    (apart ? ` ${apart} ${apart === 1 ? "row was" : "rows were"} not alive with it in one sweep, and so not compared.` : "");
  if (some.length < 2) return nothing("forest", "No other row that the filters leave was compared with this one by turns.");
  const shown = some.sort((a, b) => b.ratio - a.ratio).slice(-MOST_BARS), name = namer(shown.map((one) => one.row), ["batch"]);
  // Lines of the same name would fall together; what cannot be seen tells them apart.
  const labels = shown.map((one, i) => plain(`${name(one.row)}${one.row.group ? `  [${one.row.group}]` : ""}`) + "\u200b".repeat(i));
  const height = 110 + 26 * shown.length;
  document.getElementById("forest").style.height = `${height}px`;
  showKey("forest", looks.entries(shown.map((one) => one.row)));
  return draw("forest", [{
    type: "scatter", mode: "markers", name: "ratios", x: shown.map((one) => one.ratio), y: labels,
    error_x: {
      type: "data", symmetric: false, thickness: 1.5, color: GREY, width: 4,
      array: shown.map((one) => one.high - one.ratio), arrayminus: shown.map((one) => one.ratio - one.low),
    },
    hovertext: shown.map((one) => `${described(one.row)}<br>${significant(one.ratio, 4)} (${significant(one.low, 4)} .. ${significant(one.high, 4)})${advised(one.row)}`),
    hovertemplate: "%{hovertext}<extra></extra>", marker: marked(shown.map((one) => one.row), looks, 9),
  }], {
    height, xaxis: { title: { text: "times its latency" }, nticks: NARROW.matches ? 5 : 10 },
    yaxis: { automargin: true, type: "category" },
    shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: GREY, dash: "dot", width: 1.5 } }],
  });
}

function ratioOf(row, reference, contrasts) {
  if (row === reference) return { ratio: 1, low: 1, high: 1 };
  const found = contrasts.get(`${row} ${reference}`);
  if (!found) return {};
  const [difference, half] = found;
  return { ratio: Math.exp(difference), low: Math.exp(difference - half), high: Math.exp(difference + half) };
}

function drawScaling(rows, looks) {
  const key = (row) => [row.model, row.task, row.neck, row.runtime, row.precision, row.device_name, row.image, row.threads, row.in_flight, row.lowering].join("|");
  const lines = new Map();
  for (const row of rows) {
    if (row.latency_ms_p50 === null) continue;
    if (!lines.has(key(row))) lines.set(key(row), []);
    lines.get(key(row)).push(row);
  }
  if (!lines.size) return nothing("scaling", "No row that the filters leave was measured.");
  const shown = [...lines.values()].slice(0, MOST_LINES).map((some) => [...some].sort((a, b) => a.batch - b.batch));
  const every = shown.flat(), name = namer(every, ["batch"]);
  const traces = [], items = [];
  for (const some of shown) {
    const [first] = some, last = some[some.length - 1], colour = looks.colourOf(first), title = name(first);
    const common = {
      type: "scatter", mode: "lines+markers", name: plain(title), x: some.map((row) => row.batch),
      line: { color: colour, dash: DASHES[looks.place(first) % DASHES.length] }, marker: marked(some, looks, 8),
      hovertext: some.map((row) => `${plain(title)}<br>batch ${row.batch}: ${significant(row.latency_ms_p50)} ms, ` +
        `${significant(row.throughput_images_s)} images/s${advised(row)}`),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
    const error = {
      type: "data", symmetric: false, thickness: 1,
      array: some.map((row) => row.latency_ms_p50_high - row.latency_ms_p50),
      arrayminus: some.map((row) => row.latency_ms_p50 - row.latency_ms_p50_low),
    };
    traces.push(
      { ...common, y: some.map((row) => row.latency_ms_p50), error_y: error },
      { ...common, y: some.map((row) => row.throughput_images_s), xaxis: "x2", yaxis: "y2" },
    );
    items.push(
      { x: last.batch, y: last.latency_ms_p50, text: title, colour, ends: true, suffix: "" },
      { x: last.batch, y: last.throughput_images_s, text: title, colour, ends: true, suffix: "2" },
    );
  }
  document.getElementById("scaling-note").textContent = lines.size > MOST_LINES
    ? `The first ${MOST_LINES} of ${lines.size} lines; the filters choose others.` : "";
  showKey("scaling", looks.entries(every));
  const labelled = shown.length <= MOST_ENDS, margin = labelled ? endMargin(items.map((item) => item.text)) : 15;
  const batches = distinct(rows, "batch").sort((a, b) => a - b);
  const axis = { title: { text: "batch" }, type: "log", tickvals: batches, ticktext: batches.map(String) };
  // Side by side where both have room for their lines and labels.
  const inside = document.getElementById("scaling").clientWidth - 60 - margin;
  const stacked = NARROW.matches || inside < 2 * 180 + margin + 60, gap = (margin + 60) / inside / 2;
  document.getElementById("scaling").style.height = stacked ? "46rem" : "";
  const latencies = every.flatMap((row) => [row.latency_ms_p50_low || row.latency_ms_p50, row.latency_ms_p50_high || row.latency_ms_p50]);
  return draw("scaling", traces, {
    margin: { t: 30, r: margin, b: 50, l: 60 },
    xaxis: { ...axis, domain: stacked ? [0, 1] : [0, 0.5 - gap] }, xaxis2: { ...axis, anchor: "y2", domain: stacked ? [0, 1] : [0.5 + gap, 1] },
    yaxis: { title: { text: "latency, ms" }, type: "log", ...logTicks(latencies), domain: stacked ? [0.58, 1] : [0, 1] },
    yaxis2: { title: { text: "images/s" }, rangemode: "tozero", anchor: "x2", domain: stacked ? [0, 0.42] : [0, 1] },
  }, labelled ? items : []);
}

function drawRoofline(rows, looks, roofs) {
  const points = rows.filter((row) => row.graph_bytes && row.latency_ms_p50 !== null);
  if (!points.length) return nothing("roofline", "No row that the filters leave has a bound: it takes an ONNX graph and the processor's peaks.");
  const intensity = (row) => (2 * row.graph_macs) / row.graph_bytes;
  const rate = (row) => (2 * row.graph_macs) / row.latency_ms_p50 / 1e6;
  const traces = [{
    type: "scatter", mode: "markers", name: "rows", x: points.map(intensity), y: points.map(rate),
    hovertext: points.map((row) => `${described(row)}<br>${significant(rate(row))} GFLOP/s, ` +
      `${significant(row.efficiency_percent)} % of its bound${advised(row)}`),
    hovertemplate: "%{hovertext}<extra></extra>", marker: marked(points, looks, 9),
  }];
  const place = (one) => [one.device_name, one.precision, one.threads].join(" ");
  const places = new Set(points.map(place)), key = looks.entries(points);
  const intensities = points.map(intensity);
  const [least, most] = [Math.min(1, ...intensities) / 2, Math.max(100, ...intensities) * 2];
  roofs.filter((one) => places.has(place(one))).forEach((roof, i) => {
    const dash = DASHES[i % DASHES.length];
    const told = (speeds) => `${roof.device_name}, ${roof.precision}${roof.kind === "measured" ? `, ${roof.threads} threads` : ""}: ` +
      `${significant(roof.gflop_s)} GFLOP/s, ${speeds.map((speed) => significant(speed)).join(" .. ")} GB/s (${roof.kind})`;
    for (const speed of roof.gb_s) {
      const ridge = roof.gflop_s / speed;
      const x = [least, Math.min(Math.max(ridge, least), most), most];
      traces.push({
        type: "scatter", mode: "lines", x, y: x.map((v) => Math.min(roof.gflop_s, v * speed)), name: plain(told([speed])),
        line: { color: GREY, dash, width: 1.5 }, hoverinfo: "name",
      });
    }
    key.push({ text: told(roof.gb_s.length > 1 ? [roof.gb_s[0], roof.gb_s[roof.gb_s.length - 1]] : roof.gb_s), dash, colour: GREY });
  });
  showKey("roofline", key);
  const name = namer(points);
  const items = points.length <= MOST_LABELS ? points.map((row) => ({ x: intensity(row), y: rate(row), text: name(row), colour: looks.colourOf(row) })) : [];
  return draw("roofline", traces, {
    xaxis: { title: { text: "arithmetic intensity, FLOP per byte" }, type: "log", ...logTicks([least, most]) },
    yaxis: { title: { text: "GFLOP/s" }, type: "log", ...logTicks(traces.flatMap((trace) => trace.y)) },
  }, items);
}

function drawParts(rows, kinds, palette) {
  const some = rows.filter((row) => row.shares);
  const shown = some.slice(0, MOST_BARS).reverse(), name = namer(shown);
  const labels = shown.map((row, i) => plain(name(row)) + "\u200b".repeat(i));
  const colour = (kind) => palette[kinds.indexOf(kind) % palette.length];
  const used = kinds.filter((kind, k) => shown.some((row) => row.shares[k] > 0));
  document.getElementById("parts-note").textContent =
    (some.length > MOST_BARS ? `The first ${MOST_BARS} of ${some.length} rows. ` : "") +
    (some.length ? "Means of a few inferences under the runtime's own profiler." : "");
  if (!some.length) return nothing("parts", "No row that the filters leave tells where its time goes.");
  const height = 90 + 24 * shown.length;
  document.getElementById("parts").style.height = `${height}px`;
  showKey("parts", used.map((kind) => ({ text: kind, colour: colour(kind), glyph: "■" })));
  return draw("parts", used.map((kind) => ({
    type: "bar", orientation: "h", name: plain(kind), y: labels, x: shown.map((row) => row.shares[kinds.indexOf(kind)]),
    hovertemplate: `${plain(kind)}: %{x:.1f} %<extra></extra>`, marker: { color: colour(kind) },
  })), { barmode: "stack", height, xaxis: { title: { text: "% of an inference" }, range: [0, 100] }, yaxis: { automargin: true, type: "category" } });
}

// One panel for each transform; colours are mixers, dashes what else differs: model, precision, runtime.
function drawInvariance(rows, looks, invariances) {
  const left = new Set(rows.map((row) => row.place));
  const some = invariances.filter((one) => one.rows.some((place) => left.has(place))).slice(0, MOST_LINES);
  if (!some.length) return nothing("invariance", "No row that the filters leave has its invariance measured.");
  const transforms = [...new Set(some.flatMap((one) => one.curves.map((curve) => curve.transform)))];
  const alike = new Map(), key = [], traces = [], changes = {
    grid: { rows: NARROW.matches ? transforms.length : 1, columns: NARROW.matches ? 1 : transforms.length, pattern: "independent" },
  };
  const varies = (name) => distinct(some, name).length > 1;
  for (const one of some) {
    const number = alike.get(one.stm) || 0, dash = DASHES[number % DASHES.length], colour = looks.colourOfValue(one.stm, "stm");
    alike.set(one.stm, number + 1);
    const title = [one.model, varies("precision") && one.precision, varies("runtime") && one.runtime].filter(Boolean).join(", ");
    key.push({ text: title, dash, colour });
    for (const curve of one.curves) {
      const at = transforms.indexOf(curve.transform) + 1, suffix = at === 1 ? "" : String(at);
      const common = { xaxis: `x${suffix}`, yaxis: `y${suffix}`, x: curve.levels };
      traces.push({
        ...common, type: "scatter", mode: "lines", hoverinfo: "skip",
        x: [...curve.levels, ...[...curve.levels].reverse()], y: [...curve.high, ...[...curve.low].reverse()],
        fill: "toself", line: { width: 0, color: colour }, opacity: 0.15,
      });
      traces.push({
        ...common, type: "scatter", mode: "lines", name: plain(title), y: curve.consistency, line: { color: colour, dash },
        hovertemplate: `${plain(title)}<br>${plain(curve.transform)} %{x}: %{y:.1f} %<extra></extra>`,
      });
      changes[`xaxis${suffix}`] = { title: { text: `${plain(curve.transform)}, ${plain(curve.unit)}` } };
      changes[`yaxis${suffix}`] = { range: [0, 102], title: at === 1 || NARROW.matches ? { text: "consistency, %" } : undefined };
    }
  }
  const height = NARROW.matches ? 120 + 240 * transforms.length : 420;
  document.getElementById("invariance").style.height = `${height}px`;
  showKey("invariance", key);
  return draw("invariance", traces, { ...changes, height });
}

// A row from sweep to sweep, with the levels that steps lie between.
function drawHistory(one) {
  const colour = COLOUR_OF_STEPS;
  showKey("history", [{ text: "a sweep's figure", colour: "currentColor" }, { text: "level", dash: "solid", colour }]);
  document.getElementById("history-note").textContent = one.steps.length
    ? `Steps: ${one.steps.map((percent) => `${percent > 0 ? "+" : ""}${percent.toFixed(1)} %`).join(", ")}. On ${one.machine}.` : `No step. On ${one.machine}.`;
  const style = getComputedStyle(document.documentElement).getPropertyValue("--text").trim();
  const traces = one.levels.map(([begin, end, level]) => ({
    type: "scatter", mode: "lines", hoverinfo: "skip", x: [begin - 0.5, end - 0.5], y: [level, level], line: { color: colour, width: 2 },
  }));
  traces.push({
    type: "scatter", mode: "markers", x: one.figures.map((_, i) => i), y: one.figures, marker: { color: style, size: 6 },
    hovertext: one.figures.map((figure, i) => `${plain(one.times[i].slice(0, 16))}<br>${significant(figure)} ${plain(one.unit)}<br>sweep ${plain(one.sweeps[i])}`),
    hovertemplate: "%{hovertext}<extra></extra>",
  });
  const step = Math.max(1, Math.ceil(one.figures.length / (NARROW.matches ? 3 : 8)));
  const ticks = one.figures.map((_, i) => i).filter((i) => i % step === Math.floor(step / 2));
  return draw("history", traces, {
    xaxis: { title: { text: "sweep, the oldest first" }, tickvals: ticks, ticktext: ticks.map((i) => one.times[i].slice(0, 10)) },
    yaxis: { title: { text: plain(one.unit) }, rangemode: "tozero" },
  });
}
const COLOUR_OF_STEPS = "#d55e00";
