"use strict";
// The plots: each takes the rows that the filters leave, and draws them with Plotly.

// Okabe and Ito's colours, which can be told apart by the colour-blind too.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a", "#b2a100"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "star", "x", "pentagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
// Beyond these a plot would say nothing: labels, intervals, lines, bars.
const MOST_LABELS = 40, MOST_INTERVALS = 500, MOST_LINES = 40, MOST_BARS = 40;

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
  { key: "throughput_images_s", label: "throughput, images/s", more: true },
  { key: "memory_mib", label: "memory, MiB" },
  { key: "energy_j_per_image", label: "energy, J per image" },
  { key: "gmacs", label: "GMACs per image, counted" },
  { key: "params_m", label: "parameters, M, counted" },
];

// Buttons by name: whatever else Plotly comes with, such as one that uploads the plot, stays out.
const CONFIG = {
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: true,
};
const ADVICE_WIDTH = 40;  // characters of a line
const NARROW = matchMedia("(max-width: 40rem)");

// Plotly reads its texts as a kind of HTML; names are to stay what they are.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function short(value) {
  return value === null ? "-" : String(Number(value.toPrecision(4)));
}

function distinct(rows, key) {
  return [...new Set(rows.map((row) => row[key]))];
}

function layout(changes) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), family: "system-ui, sans-serif" },
    margin: { t: 20, r: 10, b: 50, l: 60 }, hovermode: "closest", modebar: { bgcolor: "rgba(0,0,0,0)" },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" }, autosize: true,
    hoverlabel: { align: "left", font: { size: NARROW.matches ? 10 : 13 } },
  };
  for (const name of Object.keys(changes)) {
    if (/^[xy]axis\d*$/.test(name)) changes[name] = { ...axis, ...changes[name] };
  }
  return { ...base, ...changes };
}

function draw(id, traces, changes) {
  return Plotly.react(id, traces, layout(changes), CONFIG);
}

function described(row) {
  return `${plain(row.model)}<br>${plain(row.runtime)}, ${plain(row.precision)}, batch ${row.batch}` +
    `<br>${plain(row.device_name)}, ${row.threads} threads`;
}

// The steady ones first: the legend shows a trace by the first of its markers.
const steadyFirst = (rows) => [...rows].sort((a, b) => (a.steady === false) - (b.steady === false));

// Markers of rows: open ones of what was not measured steadily.
function marked(rows, symbol, size, color) {
  const of = (unsteady, steady) => rows.map((row) => (row.steady === false ? unsteady : steady));
  return { color, size, symbol: of(`${symbol}-open`, symbol), line: { color, width: of(2, 0) } };
}

function advised(row) {
  if (row.steady !== false) return "";
  const lines = [""];
  for (const word of `not measured steadily: ${row.advice}`.split(" ")) {
    if (lines[lines.length - 1].length + word.length > ADVICE_WIDTH) lines.push("");
    lines[lines.length - 1] += `${word} `;
  }
  return lines.map((line) => `<br>${plain(line.trim())}`).join("");
}

// The entry of the legend that explains open symbols, where there are any.
function openEntry(rows) {
  if (!rows.some((row) => row.steady === false)) return [];
  return [{
    type: "scatter", mode: "markers", name: "open: not measured steadily (~)", x: [null], y: [null], hoverinfo: "skip",
    marker: { color: COLOURS[6], symbol: "circle-open", size: 10, line: { width: 2 } },
  }];
}

// Those that no other one beats in both; rows are {x, y}.
function front(points, more) {
  const ordered = [...points].sort((a, b) => (more ? b.x - a.x : a.x - b.x) || b.y - a.y);
  const kept = [];
  for (const point of ordered) {
    if (!kept.length || point.y > kept[kept.length - 1].y) kept.push(point);
  }
  return kept;
}

// `all` has the mixers and devices of every row: a filter changes no colour.
function drawPareto(rows, all, accuracy, cost) {
  const points = steadyFirst(rows)
    .filter((row) => row[accuracy.key] !== null && row[cost.key] !== null)
    .map((row) => ({ row, x: row[cost.key], y: row[accuracy.key] }));
  const traces = [];
  all.devices.forEach((device, d) => {
    const here = points.filter((point) => point.row.device_name === device);
    if (!here.length) return;
    const best = front(here, cost.more);
    traces.push({
      type: "scatter", mode: "lines", name: `front, ${plain(device)}`, hoverinfo: "skip",
      x: best.map((point) => point.x), y: best.map((point) => point.y),
      line: { color: COLOURS[6], dash: DASHES[d % DASHES.length], width: 2 },
    });
    for (const stm of all.stms) {
      const some = here.filter((point) => point.row.stm === stm);
      if (some.length) traces.push(scatter(some, stm, all, d, points.length, accuracy, cost));
    }
  });
  traces.push(...openEntry(points.map((point) => point.row)));
  document.getElementById("pareto-note").textContent = points.length
    ? `${points.length} of ${rows.length} rows have both. Lines join what no other row on that device beats in both.` +
      (points.length > MOST_INTERVALS ? " Intervals are drawn for fewer rows; pointing at a row tells its own." : "")
    : "No row that the filters leave has both figures.";
  return draw("pareto", traces, {
    xaxis: { title: { text: cost.label }, type: "log" }, yaxis: { title: { text: accuracy.label } },
  });
}

function scatter(some, stm, all, device, total, accuracy, cost) {
  const few = total <= MOST_INTERVALS;
  const spread = (axis, at) => {
    if (!few || !axis.low) return undefined;
    const ends = (key, sign) => some.map((p) => (p.row[key] === null ? 0 : sign * (p.row[key] - p[at])));
    return { type: "data", symmetric: false, array: ends(axis.high, 1), arrayminus: ends(axis.low, -1), thickness: 1 };
  };
  const interval = (p) => (cost.low ? ` (95 %: ${short(p.row[cost.low])} .. ${short(p.row[cost.high])})` : "");
  return {
    type: "scatter", mode: total <= MOST_LABELS ? "markers+text" : "markers", name: plain(stm),
    x: some.map((p) => p.x), y: some.map((p) => p.y),
    text: some.map((p) => plain(`${p.row.stm} ${p.row.scale}`)), textposition: "top center", cliponaxis: false,
    customdata: some.map((p) => described(p.row)),
    hovertext: some.map((p) => `${described(p.row)}<br>${cost.label}: ${short(p.x)}${interval(p)}` +
      `<br>${accuracy.label}: ${short(p.y)}${accuracy.key === "top1" ? ` (${plain(p.row.top1_kind)})` : ""}${advised(p.row)}`),
    hovertemplate: "%{hovertext}<extra></extra>",
    error_x: spread(cost, "x"), error_y: spread(accuracy, "y"),
    marker: marked(some.map((p) => p.row), SYMBOLS[device % SYMBOLS.length], 10, colourOf(stm, all)),
  };
}

function colourOf(stm, all) {
  return COLOURS[all.stms.indexOf(stm) % COLOURS.length];
}

function drawScaling(rows, all) {
  const name = (row) => [row.model, row.task === "detection" ? row.task : "", row.neck, row.runtime, row.precision, row.device_name, row.image,
    `${row.threads} threads`, row.in_flight > 1 ? `${row.in_flight} in flight` : "", row.lowering].filter(Boolean).join(", ");
  const lines = new Map();
  for (const row of rows) {
    if (row.latency_ms_p50 === null) continue;
    if (!lines.has(name(row))) lines.set(name(row), []);
    lines.get(name(row)).push(row);
  }
  const shown = [...lines.entries()].slice(0, MOST_LINES);
  const alike = new Map();  // lines of one mixer differ by their dashes
  const traces = shown.flatMap(([title, some]) => {
    const stm = some[0].stm, number = alike.get(stm) || 0;
    alike.set(stm, number + 1);
    const ordered = [...some].sort((a, b) => a.batch - b.batch);
    const common = {
      type: "scatter", mode: "lines+markers", name: plain(title), legendgroup: title,
      x: ordered.map((row) => row.batch), line: { color: colourOf(stm, all), dash: DASHES[number % DASHES.length] },
      marker: marked(ordered, "circle", 8, colourOf(stm, all)),
      hovertext: ordered.map((row) => `${plain(title)}<br>batch ${row.batch}: ${short(row.latency_ms_p50)} ms, ` +
        `${short(row.throughput_images_s)} images/s${advised(row)}`),
      hovertemplate: "%{hovertext}<extra></extra>",
    };
    const error = {
      type: "data", symmetric: false, thickness: 1,
      array: ordered.map((row) => row.latency_ms_p50_high - row.latency_ms_p50),
      arrayminus: ordered.map((row) => row.latency_ms_p50 - row.latency_ms_p50_low),
    };
    return [
      { ...common, y: ordered.map((row) => row.latency_ms_p50), error_y: error },
      { ...common, y: ordered.map((row) => row.throughput_images_s), xaxis: "x2", yaxis: "y2", showlegend: false },
    ];
  });
  traces.push(...openEntry(shown.flatMap(([, some]) => some)));
  document.getElementById("scaling-note").textContent = lines.size > MOST_LINES
    ? `The first ${MOST_LINES} of ${lines.size} lines; the filters choose others.` : "";
  const axis = { title: { text: "batch" }, type: "log", tickvals: distinct(rows, "batch").sort((a, b) => a - b) };
  return draw("scaling", traces, {
    grid: { rows: NARROW.matches ? 2 : 1, columns: NARROW.matches ? 1 : 2, pattern: "independent" },
    xaxis: axis, xaxis2: { ...axis },
    yaxis: { title: { text: "latency, ms" }, type: "log" },
    yaxis2: { title: { text: "images/s" }, rangemode: "tozero" },
    showlegend: shown.length <= 12,
  });
}

function drawRoofline(rows, all, roofs) {
  const points = rows.filter((row) => row.graph_bytes && row.latency_ms_p50 !== null);
  const intensity = (row) => (2 * row.graph_macs) / row.graph_bytes;
  const traces = all.stms.map((stm) => {
    const some = steadyFirst(points.filter((row) => row.stm === stm));
    const rate = (row) => (2 * row.graph_macs) / row.latency_ms_p50 / 1e6;
    return {
      type: "scatter", mode: "markers", name: plain(stm),
      x: some.map(intensity), y: some.map(rate),
      hovertext: some.map((row) => `${described(row)}<br>${short(rate(row))} GFLOP/s, ` +
        `${short(row.efficiency_percent)} % of its bound${advised(row)}`),
      hovertemplate: "%{hovertext}<extra></extra>",
      marker: marked(some, "circle", 9, colourOf(stm, all)),
    };
  }).filter((trace) => trace.x.length);
  traces.push(...openEntry(points));
  const place = (one) => [one.device_name, one.precision, one.threads].join(" ");
  const places = new Set(points.map(place));
  const intensities = points.map(intensity);
  const [least, most] = [Math.min(1, ...intensities) / 2, Math.max(100, ...intensities) * 2];
  for (const roof of roofs.filter((one) => places.has(place(one)))) {
    roof.gb_s.forEach((speed, i) => {
      const ridge = roof.gflop_s / speed;
      const x = [least, Math.min(Math.max(ridge, least), most), most];
      traces.push({
        type: "scatter", mode: "lines", x, y: x.map((v) => Math.min(roof.gflop_s, v * speed)),
        name: `${plain(roof.device_name)}, ${roof.precision}${roof.kind === "measured" ? `, ${roof.threads} threads` : ""}: ${short(roof.gflop_s)} GFLOP/s, ${short(speed)} GB/s (${roof.kind})`,
        line: { color: COLOURS[6], dash: DASHES[i % DASHES.length], width: 1.5 }, hoverinfo: "name",
      });
    });
  }
  return draw("roofline", traces, {
    xaxis: { title: { text: "arithmetic intensity, FLOP per byte" }, type: "log" },
    yaxis: { title: { text: "GFLOP/s" }, type: "log" },
  });
}

function drawParts(rows, kinds) {
  const some = rows.filter((row) => row.shares);
  const shown = some.slice(0, MOST_BARS).reverse();
  const labels = shown.map((row, i) =>
    [row.model, `${row.runtime}, ${row.precision}, batch ${row.batch}`].map(plain).join(NARROW.matches ? "<br>" : ", ") +
      "\u200b".repeat(i));
  const traces = kinds.map((kind, k) => ({
    type: "bar", orientation: "h", name: plain(kind), y: labels, x: shown.map((row) => row.shares[k]),
    hovertemplate: `${plain(kind)}: %{x:.1f} %<extra></extra>`, marker: { color: COLOURS[k % COLOURS.length] },
  })).filter((trace) => trace.x.some((share) => share > 0));
  document.getElementById("parts-note").textContent =
    (some.length > MOST_BARS ? `The first ${MOST_BARS} of ${some.length} rows. ` : "") +
    (some.length ? "Means of a few inferences under the runtime's own profiler." : "No row that the filters leave tells.");
  const height = 120 + (NARROW.matches ? 36 : 24) * shown.length;
  document.getElementById("parts").style.height = `${height}px`;
  return draw("parts", traces, {
    barmode: "stack", height, xaxis: { title: { text: "% of an inference" }, range: [0, 100] },
    yaxis: { automargin: true }, legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, margin: { t: 50, r: 10, b: 50, l: 60 },
  });
}

// One panel for each transform; colours are mixers, dashes what else differs: model, precision, runtime.
function drawInvariance(rows, all, invariances) {
  const left = new Set(rows.map((row) => row.place));
  const some = invariances.filter((one) => one.rows.some((place) => left.has(place))).slice(0, MOST_LINES);
  const transforms = [...new Set(some.flatMap((one) => one.curves.map((curve) => curve.transform)))];
  const count = Math.max(transforms.length, 1), named = new Set(), alike = new Map();
  const traces = [], changes = {
    grid: { rows: NARROW.matches ? count : 1, columns: NARROW.matches ? 1 : count, pattern: "independent" },
  };
  for (const one of some) {
    const number = alike.get(one.stm) || 0;
    alike.set(one.stm, number + 1);
    const title = plain(`${one.model}, ${one.precision}, ${one.runtime}`);
    for (const curve of one.curves) {
      const at = transforms.indexOf(curve.transform) + 1, suffix = at === 1 ? "" : String(at);
      const common = { xaxis: `x${suffix}`, yaxis: `y${suffix}`, legendgroup: title, x: curve.levels };
      traces.push({
        ...common, type: "scatter", mode: "lines", showlegend: false, hoverinfo: "skip",
        x: [...curve.levels, ...[...curve.levels].reverse()], y: [...curve.high, ...[...curve.low].reverse()],
        fill: "toself", line: { width: 0, color: colourOf(one.stm, all) }, opacity: 0.15,
      });
      traces.push({
        ...common, type: "scatter", mode: "lines", name: title, showlegend: !named.has(title),
        y: curve.consistency, line: { color: colourOf(one.stm, all), dash: DASHES[number % DASHES.length] },
        hovertemplate: `${title}<br>${plain(curve.transform)} %{x}: %{y:.1f} %<extra></extra>`,
      });
      named.add(title);
      changes[`xaxis${suffix}`] = { title: { text: `${plain(curve.transform)}, ${plain(curve.unit)}` } };
      changes[`yaxis${suffix}`] = { range: [0, 102], title: at === 1 || NARROW.matches ? { text: "consistency, %" } : undefined };
    }
  }
  document.getElementById("invariance-note").textContent = some.length
    ? "" : "No row that the filters leave has its invariance measured.";
  const height = NARROW.matches ? 120 + 240 * count : 420;
  document.getElementById("invariance").style.height = `${height}px`;
  return draw("invariance", traces, { ...changes, height });
}
