// Fills the figures of the page from its data, one run at a time; follows the reader's theme, choice of layers and
// steps; on a live page asks the server for news. Text from records goes into text nodes and plots only.

const json = (id) => JSON.parse(document.getElementById(id).textContent);
const themes = json("themes-json"), plots = json("plots-json"), {drawn} = plots;
const dark = matchMedia("(prefers-color-scheme: dark)");
let data = json("data-json"), doc = null, printing = false;
const state = {run: 0, shown: null, span: null};

const theme = () => themes[dark.matches ? "dark" : "light"];
const model = (name) => doc.get_model_by_name(name);
const run = () => data.runs[state.run];
// By name the lengths of strokes and gaps, as the key draws them.
const STROKES = {solid: "", dashed: "6", dotted: "2 4", dotdash: "2 4 6 4", dashdot: "6 4 2 4"};
const DASHES = Object.keys(STROKES);

// -- drawing ---------------------------------------------------------------------------------

// Lines of a figure, with the range behind each that has one.
function lines(name, rows) {
  const log = model(name).y_scale.type === "LogScale";
  const seen = rows.some((r) => r.y.some((y) => (log ? y > 0 : Number.isFinite(y))));
  if (!seen) rows = [{name: "", x: [0, 1], y: [1, 2], colour: "transparent"}]; // axes want something
  const ranges = rows.filter((r) => r.low && r.low.some((y, i) => y < r.high[i]));
  const outlines = ranges.map((r) => outline(r.x, r.low, r.high, log));
  const alpha = Math.min(0.14, 1 - 0.65 ** (1 / Math.max(1, ranges.length))); // lines show through all of them together
  model(`${name}-ranges`).data = {
    xs: outlines.map((o) => o.xs), ys: outlines.map((o) => o.ys), colour: ranges.map((r) => r.colour),
    alpha: ranges.map(() => alpha),
  };
  model(`${name}-source`).data = {
    xs: rows.map((r) => r.x),
    ys: rows.map((r) => (log ? positive(r.y) : r.y)),
    name: rows.map((r) => r.name),
    colour: rows.map((r) => r.colour),
    dash: rows.map((r) => r.dash ?? "solid"),
    width: rows.map((r) => r.width ?? 1.6),
  };
  present(name, seen);
}

// What each line is, with a stroke like it.
function key(list, rows) {
  list.hidden = rows.length === 0;
  list.replaceChildren(...rows.map((r) => {
    const item = document.createElement("li");
    item.append(stroke(r.colour, r.dash ?? "solid", r.width ?? 1.6), r.why ? `${r.name} (${r.why})` : r.name);
    return item;
  }));
}

function stroke(colour, dash, width) {
  const make = (name, settings) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(settings)) node.setAttribute(key, value);
    return node;
  };
  const picture = make("svg", {width: 30, height: 8, "aria-hidden": "true"});
  picture.append(make("line", {
    x1: 0, x2: 30, y1: 4, y2: 4, stroke: colour, "stroke-width": width, "stroke-dasharray": STROKES[dash],
  }));
  return picture;
}

function present(name, seen, why) {
  const chart = document.querySelector(`[data-chart="${name}"]`);
  if (!chart) return;
  chart.querySelector(".plot").hidden = !seen;
  const note = chart.querySelector(".absent");
  note.hidden = seen;
  note.textContent = why ?? "Nothing of this is in the record.";
}

const series = (r, which) => {
  const {mean, low, high} = r.network[which], y = numbers(mean);
  return {x: r.x, y, low: low ? numbers(low) : y, high: high ? numbers(high) : y};
};

function drawTime() {
  const r = run(), t = theme(), loss = [{name: "loss", colour: t.text, ...series(r, "loss")}];
  if (r.baseline !== null) {
    const [from, to] = [r.x[0], r.end];
    const name = `baseline ${r.baseline.toPrecision(4)}: what a constant answer costs`;
    loss.push({name, colour: t.undecided, dash: "dashed", width: 2, x: [from, to], y: [r.baseline, r.baseline]});
  }
  lines("loss", loss);
  key(keyOf("loss"), loss);
  // What PyTorch calls an L2 strength is 2λ.
  const strength = series(r, "strength"), name = r.decay ? "weight_decay (2λ)" : "λ", scale = r.decay ? 2 : 1;
  for (const part of ["y", "low", "high"]) strength[part] = strength[part].map((y) => scale * y);
  model("strength").left[0].axis_label = name;
  lines("strength", [{name, colour: t.link, ...strength}]);
  const kinds = {failed: ["onset", "could be known", "verdict", "stopped", "warning"], healthy: ["active phase", "strength"]};
  const colour = (kind) => (kinds.failed.includes(kind) ? t.failed : kinds.healthy.includes(kind) ? t.healthy : t.undecided);
  const marks = r.marks.slice(0, 200).filter((m) => m.step >= 0);
  model("loss-marks").data = {
    x: marks.map((m) => m.step), text: marks.map((m) => `${m.kind}: ${m.text}`), colour: marks.map((m) => colour(m.kind)),
  };
  drawMetrics();
}

const keyOf = (name) => document.querySelector(`[data-chart="${name}"] .key`);

// A figure for each kind of metric; what is beyond their number shares the last.
function drawMetrics() {
  const {epoch, ...metrics} = run().metrics, t = theme(), kinds = new Map();
  for (const name of Object.keys(metrics)) {
    const kind = kindOf(name), place = kinds.has(kind) || kinds.size < drawn.metrics ? kind : [...kinds.keys()].at(-1);
    kinds.set(place, [...(kinds.get(place) ?? []), name]);
  }
  const found = [...kinds];
  for (let i = 0; i < drawn.metrics; i++) {
    const chart = document.querySelector(`[data-chart="metrics-${i}"]`), [kind, names] = found[i] ?? ["", []];
    const rows = names.map((name, k) => ({
      name, x: epoch, y: numbers(metrics[name]), colour: t.runs[k % t.runs.length], dash: DASHES[Math.floor(k / t.runs.length) % 5], width: 2,
    }));
    const values = rows.flatMap((row) => row.y).filter(Number.isFinite), mixed = names.some((name) => kindOf(name) !== kind);
    const share = SHARE.test(kind) && least(values) >= 0 && largest(values) <= 1;
    chart.hidden = i > 0 && !names.length;
    chart.querySelector("strong").textContent = mixed ? "Other metrics" : kind || "Metrics";
    model(`metrics-${i}`).left[0].axis_label = mixed ? "value" : `${kind}${share ? " (share, at most 1)" : ""}`;
    lines(`metrics-${i}`, rows);
    key(keyOf(`metrics-${i}`), rows);
  }
  setRange(model("metrics-0").x_range, epoch?.[0] ?? 0, Math.max(1, epoch?.at(-1) ?? 1));
}

function drawRuns() {
  if (data.runs.length < 2) return;
  const t = theme();
  for (const which of drawn.run) {
    lines(`run-${which}`, data.runs.map((r, i) => ({
      name: r.label, colour: t.runs[i % t.runs.length], ...series(r, which),
      dash: r.failed ? DASHES[1 + (Math.floor(i / t.runs.length) % 4)] : "solid",
    })));
  }
  setRange(model("run-loss").x_range, 0, Math.max(...data.runs.map((r) => r.end ?? 1)));
}

function legend() {
  for (const item of document.querySelectorAll("[data-run-swatch]")) {
    const i = Number(item.dataset.runSwatch), colours = theme().runs;
    item.style.borderTop = `3px ${data.runs[i].failed ? "dashed" : "solid"} ${colours[i % colours.length]}`;
  }
}

function setRange(range, start, end) {
  Object.assign(range, {start, end, reset_start: start, reset_end: end});
}

function drawSpan() {
  const last = Math.max(1, run().end ?? 1);
  const [from, to] = state.span ?? [0, last];
  setRange(model("loss").x_range, 0, last);
  setRange(model("layer-gradient").x_range, from, to);
  Object.assign(model("layer-gradient").x_range, {reset_start: 0, reset_end: last});
  document.getElementById("from").value = from;
  document.getElementById("to").value = to;
}

function draw() {
  drawRuns();
  legend();
  drawTime();
  drawLayers();
  for (const part of document.querySelectorAll(".of-run")) part.hidden = Number(part.dataset.run) !== state.run;
}

// -- theme -----------------------------------------------------------------------------------

function paint() {
  const t = theme(), names = Object.keys(plots.roots);
  for (const part of names.flatMap((name) => [...model(name).references()])) {
    if (/Axis$/.test(part.type)) {
      Object.assign(part, {axis_line_color: t.edge, major_tick_line_color: t.edge, major_label_text_color: t.quiet, axis_label_text_color: t.text});
    } else if (part.type === "Grid") {
      part.grid_line_color = t.rule;
    } else if (part.type === "ColorBar") {
      Object.assign(part, {major_label_text_color: t.quiet, bar_line_color: null});
    } else if (part.name === "level") {
      part.line_color = t.quiet;
    }
  }
  const style = document.documentElement.style;
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  style.setProperty("--layers-gradient", `linear-gradient(to right, ${t.layers.filter((_, i) => i % 9 === 0).join(", ")})`);
  draw();
  swatches();
}

// -- choosing --------------------------------------------------------------------------------

function select(number) {
  state.run = number;
  state.span = null;
  state.shown = new Set(usual());
  document.getElementById("rows").value = few(run().layers) ? "model" : "worst";
  listLayers();
  drawSpan();
  draw();
}

function listen() {
  document.getElementById("run")?.addEventListener("change", (event) => select(Number(event.target.value)));
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => choose(choices[button.dataset.choose]()));
  }
  box.addEventListener("change", changed);
  document.getElementById("filter").addEventListener("input", (event) => find(event.target.value.toLowerCase()));
  for (const id of ["mapped", "rows"]) {
    document.getElementById(id).addEventListener("change", () => drawMap(run().layers.filter((name) => state.shown.has(name))));
  }
  document.getElementById("span").addEventListener("submit", (event) => {
    event.preventDefault();
    const [from, to] = ["from", "to"].map((id) => Number(document.getElementById(id).value));
    if (to > from) state.span = [from, to];
    drawSpan();
  });
  document.getElementById("whole").addEventListener("click", () => { state.span = null; drawSpan(); });
  if (innerWidth < 960) document.getElementById("choice").open = false;
  dark.addEventListener("change", paint);
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));
}

// -- paper: plots as pictures, which any width of paper can take; dark ones are inverted by the style sheet ----

let opened = [];

function setPrinting(now) {
  if (now === printing) return;
  printing = now;
  for (const plot of document.querySelectorAll(".plot:not([hidden])")) picture(plot, now);
  if (now) opened = [...document.querySelectorAll("details:not([open])")];
  for (const part of opened) part.open = now;
}

function picture(plot, now) {
  const chart = plot.closest(".chart");
  chart.querySelector(".paper")?.remove();
  if (!now) return chart.classList.remove("drawn");
  const image = document.createElement("img");
  image.className = dark.matches ? "paper inverted" : "paper";
  image.alt = chart.querySelector("figcaption").textContent;
  image.src = flat(plot).toDataURL();
  chart.append(image);
  chart.classList.add("drawn"); // takes the plot itself off the paper: only after it was copied
}

// What stands on the screen, in one canvas.
function flat(plot) {
  const layers = canvases(plot), whole = document.createElement("canvas"), around = plot.getBoundingClientRect();
  const dots = devicePixelRatio, brush = whole.getContext("2d");
  whole.width = around.width * dots;
  whole.height = around.height * dots;
  for (const layer of layers.filter((l) => l.width && l.height)) {
    const at = layer.getBoundingClientRect();
    brush.drawImage(layer, (at.left - around.left) * dots, (at.top - around.top) * dots, at.width * dots, at.height * dots);
  }
  return whole;
}

const canvases = (node) => [...node.querySelectorAll("*")].flatMap((part) => [
  ...(part.tagName === "CANVAS" ? [part] : []), ...(part.shadowRoot ? canvases(part.shadowRoot) : []),
]);

// -- live ------------------------------------------------------------------------------------

async function follow(address) {
  const told = document.getElementById("live");
  for (let version = ""; ; await new Promise((done) => setTimeout(done, 2000))) {
    try {
      const answer = await fetch(`${address}?since=${version}`, {cache: "no-store"});
      if (answer.status === 204) continue;
      if (!answer.ok) throw new Error(answer.statusText);
      const fresh = await answer.json();
      version = fresh.version;
      renew(fresh);
      told.textContent = fresh.told;
      if (fresh.over) return;
    } catch {
      told.textContent = "the server does not answer; trying again";
    }
  }
}

function renew(fresh) {
  data = fresh.data;
  for (const [id, html] of Object.entries(fresh.blocks)) {
    const part = document.getElementById(id);
    if (!part) continue;
    const open = [...part.querySelectorAll("details")].map((d) => d.open), heading = part.querySelectorAll(":scope > h2, :scope > h2 + p");
    part.innerHTML = html; // made by our own escaping template
    part.prepend(...heading);
    part.querySelectorAll("details").forEach((d, i) => { d.open = open[i] ?? d.open; });
  }
  const {start, end, reset_start, reset_end} = model("layer-gradient").x_range;
  if (start !== reset_start || end !== reset_end) state.span = [start, end]; // what the reader looks at stays
  drawSpan();
  draw();
}

// -- begin -----------------------------------------------------------------------------------

async function begin() {
  const [json] = Object.values(plots.docs);
  doc = Bokeh.require("document").Document.from_json(json); // filled before it is drawn: no figure is laid out twice
  listen();
  select(0);
  paint();
  const elements = doc.roots().map((root) => document.getElementById(plots.roots[root.name]));
  await Bokeh.embed.add_document_standalone(doc, document.body, elements);
  document.body.dataset.ready = "yes";
  if (document.body.dataset.live) follow(document.body.dataset.live);
}
