"use strict";
// Fills the figures of the page from its data, one run at a time; follows the reader's theme, choice of layers and
// steps; on a live page asks the server for news. Text from records goes into text nodes and plots only.
(() => {
  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const themes = json("themes-json"), plots = json("plots-json"), {drawn} = plots;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let data = json("data-json"), doc = null, printing = false;
  const state = {run: 0, shown: null, span: null};

  const theme = () => themes[dark.matches ? "dark" : "light"];
  const model = (name) => doc.get_model_by_name(name);
  const run = () => data.runs[state.run];
  const DASHES = ["solid", "dashed", "dotted", "dotdash", "dashdot"];

  // -- numbers ---------------------------------------------------------------------------------

  // The upper halves of float32 numbers, little-endian, as encode.py writes them.
  function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const halves = new DataView(bytes.buffer), words = new Uint32Array(bytes.length / 2);
    for (let i = 0; i < words.length; i++) words[i] = halves.getUint16(2 * i, true) << 16;
    return new Float32Array(words.buffer);
  }

  // A table of layers: names, steps [P] and one array of values [P] a layer; points that no layer has are left out.
  function table(which) {
    const packed = run().tables?.[which];
    if (!packed) return null;
    if (packed.rows && packed.of === run()) return packed;
    const all = unpacked(packed.y), points = all.length / packed.names.length;
    const x = points === run().x.length ? run().x : run().begin.map((b, i) => (b + run().end[i]) / 2);
    const rows = packed.names.map((_, i) => all.subarray(i * points, (i + 1) * points));
    const kept = x.map((_, i) => i).filter((i) => rows.some((row) => !Number.isNaN(row[i])));
    packed.rows = rows.map((row) => kept.map((i) => row[i]));
    packed.x = kept.map((i) => x[i]);
    packed.of = run();
    return packed;
  }

  const positive = (values) => values.map((y) => (y > 0 ? y : NaN));
  const numbers = (values) => values.map((y) => y ?? NaN);

  // -- drawing ---------------------------------------------------------------------------------

  function lines(name, rows) {
    const log = model(name).y_scale.type === "LogScale";
    const seen = rows.some((r) => r.y.some((y) => (log ? y > 0 : Number.isFinite(y))));
    if (!seen) rows = [{name: "", x: [0, 1], y: [1, 2], colour: "black", shown: false}]; // axes want something
    model(`${name}-source`).data = {
      xs: rows.map((r) => r.x),
      ys: rows.map((r) => (log ? positive(r.y) : r.y)),
      name: rows.map((r) => r.name),
      colour: rows.map((r) => r.colour),
      dash: rows.map((r) => r.dash ?? "solid"),
    };
    model(`${name}-shown`).indices = rows.map((_, i) => i).filter((i) => rows[i].shown ?? true);
    present(name, seen);
  }

  function present(name, seen, why) {
    const chart = document.querySelector(`[data-chart="${name}"]`);
    if (!chart) return;
    chart.querySelector(".plot").hidden = !seen;
    const note = chart.querySelector(".absent");
    note.hidden = seen;
    note.textContent = why ?? "Nothing of this is in the record.";
  }

  function layerColour(place, count) {
    const palette = theme().layers;
    return palette[count < 2 ? 0 : Math.round((place / (count - 1)) * (palette.length - 1))];
  }

  function drawLayers() {
    const {layers, modules} = run();
    const place = new Map(layers.map((name, i) => [name, i]));
    for (const which of drawn.layer) {
      const t = table(which);
      lines(`layer-${which}`, (t?.names ?? []).map((name, i) => ({
        name, x: t.x, y: t.rows[i], colour: layerColour(place.get(name), layers.length), shown: state.shown.has(name),
      })));
    }
    const balance = (table("balance")?.rows ?? []).flat().filter(Number.isFinite).sort((a, b) => a - b);
    const at = (share) => balance[Math.floor(share * (balance.length - 1))] ?? 0;
    setRange(model("layer-balance").y_range, Math.max(-5, Math.min(-0.25, at(0.05))), Math.min(10, Math.max(1.6, at(0.95) * 1.2)));
    for (const which of drawn.module) {
      const t = table(which);
      lines(`module-${which}`, (t?.names ?? []).map((name, i) => ({
        name: name || "(the model)", x: t.x, y: t.rows[i], colour: layerColour(i, modules.length),
      })));
    }
    drawMap();
  }

  function drawMap() {
    const which = document.getElementById("mapped").value, t = table(which);
    const picked = (t?.names ?? []).map((_, i) => i).filter((i) => state.shown.has(t.names[i]));
    const cells = {left: [], right: [], top: [], bottom: [], name: [], value: [], shown: []};
    const relative = !drawn.shares.includes(which), plot = model("map"), count = t?.x.length ?? 0;
    const columns = Math.min(count, 160);
    picked.forEach((i, line) => {
      const start = t.rows[i].find((y) => y > 0);
      for (let c = 0; c < columns; c++) {
        const from = Math.floor((c * count) / columns), to = Math.max(from + 1, Math.floor(((c + 1) * count) / columns));
        const values = t.rows[i].slice(from, to).filter((y) => !Number.isNaN(y));
        if (!values.length) continue;
        const value = values.reduce((a, b) => a + b, 0) / values.length;
        cells.left.push(t.x[from]);
        cells.right.push(t.x[Math.min(to, count - 1)]);
        cells.top.push(line);
        cells.bottom.push(line + 1);
        cells.name.push(t.names[i]);
        cells.value.push(value);
        cells.shown.push(!relative ? value : value > 0 ? Math.log10(value / start) : NaN);
      }
    });
    model("map-source").data = cells;
    const known = cells.shown.filter(Number.isFinite), colours = model("map-colours");
    colours.low = relative ? Math.max(-12, Math.min(-1, ...extremes(known, Math.min))) : 0;
    colours.high = relative ? Math.min(6, Math.max(0.5, ...extremes(known, Math.max))) : 1;
    setRange(plot.y_range, Math.max(picked.length, 1), 0);
    mapLabels(plot, picked.map((i) => t.names[i]));
    present("map", cells.left.length > 0, t ? "No layer of this quantity is chosen." : undefined);
  }

  const extremes = (values, of) => (values.length ? [values.reduce((a, b) => of(a, b))] : []);

  function mapLabels(plot, names) {
    const axis = plot.left[0], every = Math.max(1, Math.ceil(names.length / 16));
    const longest = innerWidth < 640 ? 12 : 26, ticks = names.map((_, i) => i).filter((i) => i % every === 0);
    const short = (name) => (name.length > longest ? `…${name.slice(1 - longest)}` : name);
    axis.ticker.ticks = ticks.map((i) => i + 0.5);
    axis.major_label_overrides = new Map(ticks.map((i) => [i + 0.5, short(names[i])]));
  }

  function drawTime() {
    const r = run(), t = theme();
    const series = (values, colour, name) => ({name, x: r.x, y: numbers(values), colour});
    lines("loss", [series(r.network.loss, t.text, "loss")]);
    lines("strength", [series(r.network.strength, t.link, "λ")]);
    const kinds = {failed: ["onset", "decidable", "verdict", "stopped", "warning"], healthy: ["active phase", "strength"]};
    const colour = (kind) => (kinds.failed.includes(kind) ? t.failed : kinds.healthy.includes(kind) ? t.healthy : t.undecided);
    const marks = r.marks.slice(0, 200).filter((m) => m.step >= 0);
    model("loss-marks").data = {
      x: marks.map((m) => m.step), text: marks.map((m) => `${m.kind}: ${m.text}`), colour: marks.map((m) => colour(m.kind)),
    };
    const {epoch, ...metrics} = r.metrics;
    lines("metrics", Object.entries(metrics).map(([name, y], i) => ({
      name, x: epoch, y: numbers(y), colour: t.runs[i % t.runs.length],
    })));
    setRange(model("metrics").x_range, epoch?.[0] ?? 0, Math.max(1, epoch?.at(-1) ?? 1));
  }

  function drawRuns() {
    if (data.runs.length < 2) return;
    const t = theme();
    for (const which of drawn.run) {
      lines(`run-${which}`, data.runs.map((r, i) => ({
        name: r.label, x: r.x, y: numbers(r.network[which]), colour: t.runs[i % t.runs.length],
        dash: r.failed ? DASHES[1 + (Math.floor(i / t.runs.length) % 4)] : "solid",
      })));
    }
    setRange(model("run-loss").x_range, 0, Math.max(...data.runs.map((r) => r.x.at(-1) ?? 1)));
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
    const last = Math.max(1, run().end?.at(-1) ?? 1);
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

  const box = document.getElementById("names");

  function listLayers() {
    box.replaceChildren(...run().layers.map((name) => {
      const label = document.createElement("label"), input = document.createElement("input");
      const swatch = document.createElement("i"), text = document.createElement("span");
      input.type = "checkbox";
      input.value = name;
      swatch.setAttribute("aria-hidden", "true");
      text.textContent = name;
      label.append(input, swatch, text);
      return label;
    }));
    swatches();
    tick();
  }

  function swatches() {
    const labels = [...box.children];
    labels.forEach((label, i) => { label.children[1].style.background = layerColour(i, labels.length); });
  }

  function tick() {
    for (const label of box.children) label.firstChild.checked = state.shown.has(label.firstChild.value);
    document.getElementById("chosen").textContent = `${state.shown.size} of ${run().layers.length} shown`;
  }

  function choose(names) {
    state.shown = new Set(names);
    tick();
    drawLayers();
  }

  const penalised = () => {
    const names = run().layers.filter((_, i) => run().penalised[i]);
    return names.length ? names : run().layers;
  };
  const choices = {
    all: () => run().layers, none: () => [], penalised, named: () => run().named.filter((name) => run().layers.includes(name)),
  };

  function select(number) {
    state.run = number;
    state.span = null;
    state.shown = new Set(penalised());
    listLayers();
    drawSpan();
    draw();
  }

  function listen() {
    document.getElementById("run")?.addEventListener("change", (event) => select(Number(event.target.value)));
    for (const button of document.querySelectorAll("[data-choose]")) {
      button.addEventListener("click", () => choose(choices[button.dataset.choose]()));
    }
    box.addEventListener("change", () => choose([...box.querySelectorAll("input:checked")].map((input) => input.value)));
    document.getElementById("filter").addEventListener("input", (event) => {
      const wanted = event.target.value.toLowerCase();
      for (const label of box.children) label.hidden = !label.textContent.toLowerCase().includes(wanted);
    });
    document.getElementById("mapped").addEventListener("change", drawMap);
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

  begin();
})();
