"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const state = { axis: "index", log: false, hidden: new Set() };
const dark = matchMedia("(prefers-color-scheme: dark)");
const element = (tag, attributes = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
};

function colours() {
  const style = getComputedStyle(document.documentElement);
  return { ink: style.getPropertyValue("--ink").trim(), line: style.getPropertyValue("--line").trim(),
    paper: style.getPropertyValue("--soft").trim() };
}

// Base models have the text colour; on a dark page a dark curve is mixed with white.
function visibleColour(colour, ink) {
  if (colour === "#000000") return ink;
  const rgb = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
  const light = 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
  if (!dark.matches || light > 90) return colour;
  return `rgb(${rgb.map(v => Math.round(v + (255 - v) * 0.55)).join(",")})`;
}

function position(panel, i) {
  const value = state.axis === "index" ? i : panel[state.axis][i];
  if (value === null || !state.log || state.axis === "index") return value;
  const positive = panel[state.axis].filter(v => v > 0);
  return Math.log1p(value / Math.min(...positive));
}

function traces(panel, ink, paper) {
  const at = panel.checkpoints.map((_, i) => position(panel, i)).filter(v => v !== null);
  // As in print, curves are shifted slightly, so that their intervals do not overlap.
  const gap = 0.012 * (Math.max(...at) - Math.min(...at));
  return panel.curves.flatMap((curve, number) => {
    const shift = gap * (number - (panel.curves.length - 1) / 2);
    const places = curve.x ?? panel.checkpoints.map((_, i) => (position(panel, i) === null ? null : position(panel, i) + shift));
    // Checkpoints of other families are no gap in this curve.
    const placed = values => panel.bars ? values : values.filter((_, i) => places[i] !== null && curve.expected[i]);
    const x = placed(places), high = placed(curve.high), low = placed(curve.low), hollow = placed(curve.hollow);
    const y = placed(curve.y), colour = visibleColour(curve.colour, ink), hidden = state.hidden.has(curve.label);
    const error_y = { type: "data", symmetric: false, thickness: 1, width: 3,
      array: y.map((v, i) => (v === null || high[i] === null ? 0 : Math.max(0, high[i] - v))),
      arrayminus: y.map((v, i) => (v === null || low[i] === null ? 0 : Math.max(0, v - low[i]))) };
    if (panel.bars) return [{
      type: "bar", name: curve.label, x: panel.checkpoints, y: curve.y, error_y: { ...error_y, color: ink },
      visible: hidden ? "legendonly" : true,
      marker: { color: colour, line: { color: colour, width: 1 },
        pattern: { shape: curve.hollow.map(hollow => (hollow ? "/" : "")) } },
      hovertemplate: "<b>%{fullData.name}</b><br>%{y:.4g} at %{x}<extra></extra>",
    }];
    const thin = curve.each.map(values => ({
      mode: "lines", x, y: placed(values), visible: !hidden, showlegend: false, hoverinfo: "skip", opacity: 0.35,
      connectgaps: false, line: { color: colour, dash: curve.dash, width: 1 },
    }));
    return [...thin, {
      name: curve.label, mode: curve.x && !panel.is_path && !panel.is_log ? "markers" : "lines+markers", x, y,
      visible: hidden ? "legendonly" : true, connectgaps: false,
      line: { color: colour, dash: curve.dash },
      marker: { symbol: curve.symbol, size: 7, color: hollow.map(one => (one ? paper : colour)),
        line: { color: colour, width: hollow.map(one => (one ? 2 : 0)) } },
      error_y,
      text: placed(panel.checkpoints).map((name, i) => name + (hollow[i] ? "<br>one answer for nearly all items" : "")),
      hovertemplate: "<b>%{fullData.name}</b><br>%{y:.4g} at %{text}<extra></extra>",
    }];
  });
}

function short(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (value >= size) return +(value / size).toPrecision(3) + unit;
  return String(value);
}

function draw(panel, box) {
  const { ink, line, paper } = colours();
  const at = panel.checkpoints.map((_, i) => position(panel, i));
  const inTokens = state.axis === "tokens" || data.unit === "tokens";
  const label = (name, i) => name === "main" ? "main" : short(inTokens ? panel.tokens[i] ?? +name : +name);
  const overCheckpoints = { tickvals: at, ticktext: panel.checkpoints.map(label), zeroline: false,
    title: { text: "pre-training " + (inTokens ? "tokens" : "step") + (state.log ? " (log)" : "") } };
  const overBars = { type: "category", tickvals: panel.checkpoints, title: { text: panel.x_label || "pre-training step" },
    ticktext: panel.checkpoints.map(name => (/^\d+$/.test(name) ? short(+name) : name)) };
  const grid = { gridcolor: line, zerolinecolor: panel.is_change ? ink : line, linecolor: ink, automargin: true };
  Plotly.react(box, traces(panel, ink, paper), {
    title: { text: panel.title.replaceAll("\n", "<br>"), font: { size: 14 } }, height: 320 + (panel.own_legend ? 20 * panel.curves.length : 0), showlegend: panel.own_legend,
    legend: { orientation: "h", y: -0.32, font: { size: 11 } },
    margin: { l: 60, r: 10, t: 56, b: 56 }, font: { color: ink }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    xaxis: { ...grid, ...(panel.bars ? overBars : panel.x_label ? { title: { text: panel.x_label }, zeroline: false, type: panel.is_log ? "log" : "linear" } : overCheckpoints) },
    yaxis: { ...grid, title: { text: panel.y_label } },
  }, { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] });
  box.dataset.drawn = "true";
}

const boxes = [];
for (const figure of data.figures) {
  const section = document.getElementById(figure.name);
  const grid = section.querySelector(".panels");
  const shown = new Map(figure.panels.filter(panel => !panel.own_legend).flatMap(panel => panel.curves).map(curve => [curve.label, curve]));
  const legend = element("p", { className: "legend" });
  for (const [label, curve] of shown) {
    const mark = element("span", { className: "mark" });
    mark.style.borderTop = `3px ${curve.dash === "dash" ? "dashed" : "solid"}`;
    mark.dataset.colour = curve.colour;
    legend.append(element("span", {}, mark, label), " ");
  }
  if (shown.size) grid.before(legend);
  if (!figure.panels.length) grid.append(element("p", { textContent: "not measured" }));
  for (const panel of figure.panels) {
    const box = element("div", { className: "plot", role: "img" });
    box.setAttribute("aria-label", `${panel.title}: ${panel.curves.map(c => c.label).join(", ")}; values in the tables`);
    grid.append(box);
    boxes.push([panel, box, section]);
  }
}
function redraw() {
  const { ink } = colours();
  for (const mark of document.querySelectorAll(".mark")) mark.style.borderTopColor = visibleColour(mark.dataset.colour, ink);
  boxes.forEach(([panel, box, section]) => section.open && draw(panel, box));
}
for (const section of new Set(boxes.map(box => box[2])))
  section.addEventListener("toggle", () => section.open && boxes.filter(b => b[2] === section).forEach(b => draw(b[0], b[1])));

const toggles = document.getElementById("series");
for (const label of data.labels) {
  const input = element("input", { type: "checkbox", checked: true, value: label });
  input.addEventListener("change", () => {
    state.hidden[input.checked ? "delete" : "add"](label);
    redraw();
  });
  toggles.append(element("label", {}, input, " " + label), " ");
}
document.getElementById("axis").addEventListener("change", event => { state.axis = event.target.value; redraw(); });
document.getElementById("log").addEventListener("change", event => { state.log = event.target.checked; redraw(); });
dark.addEventListener("change", redraw);
redraw();

for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const input = element("input", { type: "search", placeholder: "filter rows (all terms must match)" });
  input.setAttribute("aria-label", "filter rows");
  const count = element("output", { textContent: `${rows.length} rows` });
  input.addEventListener("input", () => {
    const terms = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !terms.every(term => text.includes(term));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} rows`;
  });
  table.closest(".scroll").before(element("p", {}, input, " ", count));
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = head.cellIndex, down = head.getAttribute("aria-sort") === "ascending";
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => value(a).localeCompare(value(b), "en", { numeric: true }));
    if (rows.every(row => value(row) === "" || !isNaN(value(row)))) rows.sort((a, b) => value(a) - value(b));
    body.append(...(down ? rows.reverse() : rows));
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
// Print has the first visible rows only; the rest of a long table is in its file.
const PRINTED_ROWS = 40;
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  redraw();
  for (const table of document.querySelectorAll("table.data")) {
    const cut = [...table.tBodies[0].rows].filter(row => !row.hidden).slice(PRINTED_ROWS);
    cut.forEach(row => row.classList.add("cut"));
    if (cut.length)
      table.after(element("p", { className: "cut-note", textContent: `… and ${cut.length} more rows, in ${table.dataset.file}` }));
  }
});
addEventListener("afterprint", () => {
  document.querySelectorAll(".cut").forEach(row => row.classList.remove("cut"));
  document.querySelectorAll(".cut-note").forEach(note => note.remove());
});
