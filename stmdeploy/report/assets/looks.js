"use strict";
// What plots share: colours and symbols, names of rows, keys, and labels that keep apart.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon"];
const GLYPHS = { circle: "●", square: "■", diamond: "◆", "triangle-up": "▲", cross: "✚", star: "★", x: "✖", pentagon: "⬟" };
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const BORDERS = { solid: "solid", dash: "dashed", dot: "dotted", dashdot: "dashed", longdash: "dashed" };
// What colours, symbols and panels can stand for.
const KINDS_OF_LOOK = [
  ["stm", "mixer"], ["scale", "scale"], ["runtime", "runtime"], ["precision", "precision"],
  ["device_name", "device"], ["batch", "batch"], ["model", "backbone"],
];
// Beyond these a plot would say nothing: labels, intervals, lines, bars, panels.
const MOST_LABELS = 40, MOST_INTERVALS = 500, MOST_LINES = 40, MOST_BARS = 40, MOST_PANELS = 6, MOST_ENDS = 20;
const GREY = "#8a8a8a";
const ADVICE_WIDTH = 40;  // characters of a line
const NARROW = matchMedia("(max-width: 40rem)");
const FONT = "system-ui, sans-serif";

// Buttons by name: whatever else Plotly comes with, such as one that uploads the plot, stays out.
const CONFIG = {
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  displaylogo: false, showSendToCloud: false, plotlyServerURL: "", responsive: true,
};

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// Plotly reads its texts as a kind of HTML; names are to stay what they are.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// As the command line prints numbers: so many significant digits, but all whole ones.
function significant(value, digits = 3) {
  if (value === null || value === undefined) return "-";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(digits - 1);
  const rounded = Math.abs(Number(value.toPrecision(digits)));
  const whole = rounded ? Math.floor(Math.log10(rounded)) + 1 : 1;
  return value.toFixed(Math.max(0, digits - whole));
}

function distinct(rows, key) {
  return [...new Set(rows.map((row) => row[key]))];
}

const inOrder = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

// The colour and the symbol of a value are the same in every plot, whatever the filters leave.
class Looks {
  constructor(rows, palette, colours) {
    this.palette = palette;
    this.fixed = colours;
    this.values = new Map(KINDS_OF_LOOK.map(([key]) => [key, distinct(rows, key).sort(inOrder)]));
    const varying = KINDS_OF_LOOK.map(([key]) => key).filter((key) => this.values.get(key).length > 1);
    this.colour = varying.includes("stm") ? "stm" : varying.find((key) => key !== "batch") || "stm";
    this.shape = varying.find((key) => !["stm", "scale", "batch", "model", this.colour].includes(key)) || "";
    this.choices = varying;
  }

  colourOfValue(value, key = this.colour) {
    if (key === "stm" && this.fixed[value]) return this.fixed[value];
    return this.palette[this.values.get(key).indexOf(value) % this.palette.length];
  }

  colourOf(row) {
    return this.colourOfValue(row[this.colour]);
  }

  place(row) {
    return this.shape ? this.values.get(this.shape).indexOf(row[this.shape]) : 0;
  }

  symbolOf(row) {
    return SYMBOLS[this.place(row) % SYMBOLS.length];
  }

  // What the key of a plot of some rows says.
  entries(rows) {
    const name = (key) => KINDS_OF_LOOK.find(([one]) => one === key)[1];
    const found = distinct(rows, this.colour).sort(inOrder)
      .map((value) => ({ text: `${value}`, colour: this.colourOfValue(value), title: name(this.colour) }));
    if (this.shape && this.shape !== this.colour) {
      for (const value of distinct(rows, this.shape).sort(inOrder)) {
        const symbol = SYMBOLS[this.values.get(this.shape).indexOf(value) % SYMBOLS.length];
        found.push({ text: `${value}`, colour: "currentColor", glyph: GLYPHS[symbol], title: name(this.shape) });
      }
    }
    if (rows.some((row) => row.steady === false)) found.push({ text: "hollow: not measured steadily (~)", colour: "currentColor", glyph: "○" });
    return found;
  }
}

// A key above a plot, as text of the page: it cannot lie over an axis.
function showKey(id, entries) {
  const list = document.querySelector(`#${id}-key`);
  list.replaceChildren();
  for (const entry of entries) {
    const item = element("li", null, list);
    if (entry.dash) {
      const line = element("span", "", item);
      line.className = "dash";
      line.style.borderTop = `2px ${BORDERS[entry.dash]} ${entry.colour}`;
    } else {
      element("span", entry.glyph || "●", item).style.color = entry.colour;
    }
    item.append(` ${entry.text}`);
    if (entry.title) item.title = entry.title;
  }
}

function layout(changes) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, autosize: true,
    font: { color: colour("--text"), family: FONT, size: NARROW.matches ? 11 : 12 },
    margin: { t: 30, r: 15, b: 50, l: 60 }, hovermode: "closest", modebar: { bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { align: "left", font: { size: NARROW.matches ? 10 : 13 } },
  };
  for (const name of Object.keys(changes)) {
    if (/^[xy]axis\d*$/.test(name)) changes[name] = { ...axis, ...changes[name] };
  }
  return { ...base, ...changes };
}

// Powers of two and the decades between: on a short axis the usual labels run into each other.
function logTicks(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const found = [];
  for (let decade = Math.floor(Math.log10(least)); decade <= Math.ceil(Math.log10(most)); decade += 1) {
    for (const step of most / least > 200 ? [1] : most / least > 12 ? [1, 3] : [1, 2, 5]) found.push(step * 10 ** decade);
  }
  return { tickvals: found, ticktext: found.map((v) => (v < 1e-2 || v >= 1e4 ? v.toExponential(0) : String(Number(v.toPrecision(3))))) };
}

// Draws, and then puts labels where they keep apart: items are {x, y, text, colour, suffix, ends}.
function draw(id, traces, changes, items = []) {
  const plot = document.getElementById(id), shown = layout(changes);
  const own = shown.annotations || [];
  return Plotly.react(id, traces, shown, CONFIG).then(() => {
    plot.place = () => Plotly.relayout(id, { annotations: [...own, ...placed(plot, items, traces)] });
    if (!plot.watched) {
      plot.watched = true;
      plot.on("plotly_relayout", (event) => {
        if (!("annotations" in event)) plot.place();
      });
    }
    return items.length ? plot.place() : null;
  });
}

const PEN = document.createElement("canvas").getContext("2d");
const SIDES = [
  ["center", "bottom", 0, 7], ["center", "top", 0, -7], ["left", "bottom", 6, 5], ["right", "bottom", -6, 5],
  ["left", "top", 6, -5], ["right", "top", -6, -5], ["left", "middle", 9, 0], ["right", "middle", -9, 0],
];

// Annotations for the items that find a free place; the others are told by pointing at them.
function placed(plot, items, traces) {
  const full = plot._fullLayout, size = NARROW.matches ? 10 : 11, found = [], taken = [];
  PEN.font = `${size}px ${FONT}`;
  const axes = (suffix) => [full[`xaxis${suffix}`], full[`yaxis${suffix}`]];
  const where = (x, y, suffix) => {
    const [across, up] = axes(suffix);
    return [across._offset + across.d2p(x), up._offset + up.d2p(y)];
  };
  for (const trace of traces) {
    if (!/markers/.test(trace.mode || "")) continue;
    const suffix = (trace.xaxis || "x").slice(1);
    trace.x.forEach((x, i) => {
      if (x === null || trace.y[i] === null) return;
      const [px, py] = where(x, trace.y[i], suffix);
      taken.push([px - 5, py - 5, px + 5, py + 5]);
    });
  }
  // Small letters in a deep colour cannot be read on black.
  const text = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches ? full.font.color : null;
  const height = size + 4, shifts = endShifts(items, where, axes, height);
  for (const item of items) {
    const [across, up] = axes(item.suffix || "");
    const [px, py] = where(item.x, item.y, item.suffix || "");
    const width = PEN.measureText(item.text).width + 4;
    const sides = item.ends ? [["left", "middle", 9, shifts.get(item)]] : SIDES;
    const right = item.ends ? full.width : across._offset + across._length + 2;
    for (const [anchorX, anchorY, dx, dy] of sides) {
      const x0 = px + dx - (anchorX === "left" ? 0 : anchorX === "right" ? width : width / 2);
      const y0 = py - dy - (anchorY === "top" ? 0 : anchorY === "bottom" ? height : height / 2);
      const box = [x0, y0, x0 + width, y0 + height];
      const inside = box[0] >= across._offset - 2 && box[2] <= right && box[1] >= up._offset - 2 && box[3] <= up._offset + up._length + 2;
      if (!inside || taken.some((one) => one[0] < box[2] && box[0] < one[2] && one[1] < box[3] && box[1] < one[3])) continue;
      taken.push(box);
      const at = (axis, value) => (axis.type === "log" ? Math.log10(value) : value);
      found.push({
        x: at(across, item.x), y: at(up, item.y), xref: `x${item.suffix || ""}`, yref: `y${item.suffix || ""}`, text: plain(item.text),
        showarrow: false, xanchor: anchorX, yanchor: anchorY, xshift: dx, yshift: dy, font: { size, color: text || item.colour }, captureevents: false,
      });
      break;
    }
  }
  return found;
}

// How far labels at the ends of lines are moved up, so that those of one place stand below each other in the order of their lines.
function endShifts(items, where, axes, height) {
  const found = new Map(), places = new Map();
  for (const item of items.filter((one) => one.ends)) {
    const place = `${item.suffix} ${item.x}`;
    if (!places.has(place)) places.set(place, []);
    places.get(place).push({ item, py: where(item.x, item.y, item.suffix)[1] });
  }
  for (const some of places.values()) {
    some.sort((a, b) => a.py - b.py);
    const up = axes(some[0].item.suffix)[1], least = up._offset + height / 2 - 2, most = up._offset + up._length - height / 2 + 2;
    some.forEach((one, i) => { one.at = Math.max(one.py, least, i ? some[i - 1].at + height : least); });
    for (let i = some.length - 1; i >= 0; i -= 1) {
      some[i].at = Math.min(some[i].at, i + 1 < some.length ? some[i + 1].at - height : most);
      found.set(some[i].item, some[i].py - some[i].at);
    }
  }
  return found;
}

// How wide the margin must be for labels at the ends of lines.
function endMargin(texts) {
  PEN.font = `${NARROW.matches ? 10 : 11}px ${FONT}`;
  return 20 + Math.max(0, ...texts.map((text) => PEN.measureText(text).width));
}

// A function that names rows in as few words as tell them apart.
function namer(rows, without = []) {
  const varies = (key) => !without.includes(key) && distinct(rows, key).length > 1;
  const byMixer = new Set(rows.map((row) => [row.stm, row.scale].join())).size === distinct(rows, "model").length;
  const start = (row) => {
    const words = byMixer && row.scale ? ["stm", "scale"].filter(varies).map((key) => row[key]) : [row.model];
    return words.length ? words : [row.stm, row.scale].filter(Boolean);
  };
  const settings = [
    ["runtime", (v) => v], ["precision", (v) => v], ["device_name", (v) => v], ["image", (v) => v], ["task", (v) => v], ["neck", (v) => v || "no neck"],
    ["lowering", (v) => v], ["threads", (v) => `${v} threads`], ["in_flight", (v) => `${v} in flight`], ["batch", (v) => `batch ${v}`],
  ].filter(([key]) => varies(key));
  const told = rows.map((row) => [...start(row), ...without.map((key) => row[key])].join(" "));
  const used = [];
  for (const setting of settings) {
    const before = new Set(told).size;
    if (before === rows.length) break;
    rows.forEach((row, i) => { told[i] += ` ${setting[1](row[setting[0]])}`; });
    if (new Set(told).size > before) used.push(setting);
  }
  return (row) => [...start(row), ...used.map(([key, say]) => say(row[key]))].join(" ");
}

function described(row) {
  return `${plain(row.model)}<br>${plain(row.runtime)}, ${plain(row.precision)}, batch ${row.batch}` +
    `<br>${plain(row.device_name)}, ${row.threads} threads`;
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

// Markers of rows: hollow ones of what was not measured steadily.
function marked(rows, looks, size) {
  const colours = rows.map((row) => looks.colourOf(row));
  return {
    size, color: colours, symbol: rows.map((row) => looks.symbolOf(row) + (row.steady === false ? "-open" : "")),
    line: { color: colours, width: rows.map((row) => (row.steady === false ? 2 : 0)) },
  };
}

// An empty plot says why.
function nothing(id, why) {
  showKey(id, []);
  return draw(id, [], {
    xaxis: { visible: false }, yaxis: { visible: false },
    annotations: [{ text: plain(why), showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, width: document.getElementById(id).clientWidth - 40 }],
  });
}
