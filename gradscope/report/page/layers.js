// The figures by layer: which layers are chosen, what lines and rows are made of them, and what is said of that.

const box = document.getElementById("names");
const few = (names) => names.length <= drawn.lines;

// -- lines ---------------------------------------------------------------------------------------

function layerColour(place, count) {
  const palette = theme().layers;
  return palette[count < 2 ? 0 : Math.round((place / (count - 1)) * (palette.length - 1))];
}

// What is drawn of these layers: each by itself if there are few, else by block, and in front those that are named.
function planned(chosen, all, [labels, places]) {
  const named = new Map(run().named), picked = new Set(chosen), front = [...named.keys()].filter((name) => picked.has(name));
  if (few(chosen)) {
    const place = new Map(all.map((name, i) => [name, i]));
    return chosen.map((name) => ({
      name: name || "(the model)", members: [name], colour: layerColour(place.get(name), all.length),
      why: named.get(name), width: named.has(name) ? 2.6 : 1.6,
    }));
  }
  const members = labels.map(() => []);
  all.forEach((name, i) => { if (picked.has(name)) members[places[i]].push(name); });
  const blocks = labels.map((name, i) => ({name, members: members[i], colour: layerColour(i, labels.length), width: 1.6}));
  return [
    ...blocks.filter((block) => block.members.length),
    ...front.slice(0, drawn.front).map((name, i) => ({
      name, members: [name], colour: theme().text, dash: DASHES[i], width: 2.2, why: named.get(name), front: true,
    })),
  ];
}

function draw1(name, t, plan) {
  if (!t) return lines(name, []);
  const rows = new Map(t.rows.map((row) => [row.name, row]));
  const found = plan.map((line) => ({line, rows: line.members.map((member) => rows.get(member)).filter((row) => row)}));
  lines(name, found.filter((one) => one.rows.length).map((one) => ({...one.line, ...joined(t, one.rows)})));
}

function drawLayers() {
  const {layers, modules, blocks, moduleBlocks} = run(), chosen = layers.filter((name) => state.shown.has(name));
  const plan = planned(chosen, layers, blocks), inside = planned(modules, modules, moduleBlocks);
  for (const which of drawn.layer) draw1(`layer-${which}`, table(run(), which), plan);
  for (const which of drawn.module) draw1(`module-${which}`, table(run(), which), inside);
  const balance = (table(run(), "balance")?.rows ?? []).flatMap((row) => row.mean).filter(Number.isFinite).sort((a, b) => a - b);
  const at = (share) => balance[Math.floor(share * (balance.length - 1))] ?? 0;
  setRange(model("layer-balance").y_range, Math.max(-5, Math.min(-0.25, at(0.05))), Math.min(10, Math.max(1.6, at(0.95) * 1.2)));
  document.getElementById("told").textContent = `${told(plan, chosen, "layer")} ${leftOut(chosen)}`;
  document.getElementById("told-modules").textContent = told(inside, modules, "module");
  key(document.getElementById("key"), plan);
  key(document.getElementById("key-modules"), inside);
  drawMap(chosen);
}

// -- what is said of them ------------------------------------------------------------------------

function told(plan, chosen, word) {
  if (!chosen.length) return "";
  const t = table(run(), word === "layer" ? "gradient" : "signal") ?? {smooth: 1, x: []};
  const steps = t.smooth > 1 ? Math.round((t.x.at(-1) - t.x[0]) / (t.x.length - 1)) * t.smooth : 0;
  const smooth = steps ? `, smoothed over about ${steps.toLocaleString("en")} steps` : "";
  const range = "behind it the smallest and the largest value, so that no spike is lost";
  if (few(chosen)) return `Each line is a ${word}${smooth}; ${range}.`;
  const front = plan.filter((line) => line.front).length, named = new Map(run().named);
  const all = chosen.filter((name) => named.has(name)).length;
  const which = front < all ? `the first ${front} of the ${all} layers` : front > 1 ? `the ${front} layers` : "the layer";
  const ahead = front ? ` In front, dark: ${which} that verdict and rules name.` : "";
  return `${chosen.length} ${word}s as ${plan.length - front} blocks of neighbours: a line is the mean over a block's entries${smooth}; ${range} of its ${word}s.${ahead}`;
}

function leftOut(chosen) {
  const {layers, layersTotal} = run(), rest = layers.length - chosen.length;
  const hidden = rest ? `${rest} of the ${layers.length} layers are not drawn (“all” draws them): ${sorts(chosen)}.` : "";
  const absent = layersTotal - layers.length;
  return hidden + (absent > 0 ? ` ${absent} more are not in this page; gradscope export has them.` : "");
}

function sorts(chosen) {
  const {layers, penalised} = run(), picked = new Set(chosen), free = layers.filter((name, i) => !picked.has(name) && !penalised[i]);
  const held = layers.length - chosen.length - free.length;
  return [free.length ? `${free.length} without a penalty, such as ${free[0]}` : "", held ? `${held} not chosen` : ""].filter((text) => text).join("; ");
}

// -- layers over time ----------------------------------------------------------------------------

// Rows, columns and labels of the map that a reader can still tell apart.
const MOST_ROWS = 40, COLUMNS = 120, CELLS = 40000, LABEL = 14;

function drawMap(chosen) {
  const which = document.getElementById("mapped").value, t = table(run(), which), picked = new Set(chosen);
  const relative = !drawn.shares.includes(which), worst = document.getElementById("rows").value === "worst";
  const all = (t?.rows ?? []).filter((row) => picked.has(row.name)).map((row) => mapped(row, relative));
  if (worst) all.sort((a, b) => badness(a) - badness(b));
  const rows = worst ? all.slice(0, MOST_ROWS) : all, plot = model("map");
  const cells = {left: [], right: [], top: [], bottom: [], name: [], value: [], shown: []};
  const count = t?.x.length ?? 0, columns = Math.min(count, COLUMNS, Math.max(16, Math.floor(CELLS / Math.max(rows.length, 1))));
  rows.forEach((row, line) => {
    for (let c = 0; c < columns; c++) {
      const from = Math.floor((c * count) / columns), to = Math.max(from + 1, Math.floor(((c + 1) * count) / columns));
      const value = average(row.value.slice(from, to));
      if (Number.isNaN(value)) continue;
      cells.left.push(t.x[from]);
      cells.right.push(t.x[Math.min(to, count - 1)]);
      cells.top.push(line);
      cells.bottom.push(line + 1);
      cells.name.push(row.name);
      cells.value.push(value);
      cells.shown.push(relative ? Math.log10(value / row.start) : value);
    }
  });
  model("map-source").data = cells;
  const known = cells.shown.filter(Number.isFinite), colours = model("map-colours");
  colours.low = relative ? Math.max(-12, Math.min(-1, least(known))) : 0;
  colours.high = relative ? Math.min(6, Math.max(0.5, largest(known))) : 1;
  plot.height = Math.min(1600, Math.max(300, 130 + rows.length * (rows.length > 60 ? 4 : LABEL)));
  setRange(plot.y_range, Math.max(rows.length, 1), 0);
  mapLabels(plot, rows.map((row) => row.name));
  const cut = rows.length < all.length ? `The ${rows.length} worst of ${all.length} layers; “in the order of the model” shows all. ` : "";
  document.getElementById("map-told").textContent = `${cut}One line a layer that is chosen${worst ? ", the one with least left on top" : ""}. Grey: exactly 0, or not recorded.`;
  present("map", cells.left.length > 0, t ? "No layer of this quantity is chosen." : undefined);
}

function mapped(row, relative) {
  return {name: row.name, value: row.mean, start: row.mean.find((y) => y > 0), relative};
}

// Small is bad; in a run that diverged, large is.
function badness(row) {
  const known = row.value.filter((y) => !Number.isNaN(y)), end = average(known.slice(-Math.max(1, known.length >> 3)));
  const left = row.relative ? end / row.start : end, bad = Number.isNaN(left) ? 0 : left;
  return run().verdict === "diverged" ? -bad : bad;
}

function average(values) {
  const known = values.filter((y) => !Number.isNaN(y));
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : NaN;
}

function mapLabels(plot, names) {
  const axis = plot.left[0], every = Math.max(1, Math.ceil((names.length * LABEL) / (plot.height - 130)));
  const longest = innerWidth < 640 ? 14 : 34, ticks = names.map((_, i) => i).filter((i) => i % every === 0);
  const short = (name) => (name.length > longest ? `…${name.slice(1 - longest)}` : name);
  axis.ticker.ticks = ticks.map((i) => i + 0.5);
  axis.major_label_overrides = new Map(ticks.map((i) => [i + 0.5, short(names[i])]));
}

// -- choosing ------------------------------------------------------------------------------------

function listLayers() {
  const {layers, blocks: [labels, places]} = run(), items = layers.map(layerItem);
  if (few(layers)) {
    box.replaceChildren(...items);
  } else {
    const groups = labels.map((label) => blockItem(label));
    items.forEach((item, i) => groups[places[i]].append(item));
    box.replaceChildren(...groups);
  }
  swatches();
  tick();
}

function layerItem(name) {
  const label = document.createElement("label"), text = document.createElement("span");
  text.textContent = name;
  label.append(checkbox(name), document.createElement("i"), text);
  return label;
}

function blockItem(name) {
  const group = document.createElement("details"), summary = document.createElement("summary"), text = document.createElement("span");
  const all = checkbox("");
  all.dataset.block = name;
  all.setAttribute("aria-label", `all of ${name}`);
  text.textContent = name;
  summary.append(all, document.createElement("i"), text);
  group.append(summary);
  return group;
}

function checkbox(value) {
  const input = document.createElement("input");
  input.type = "checkbox";
  input.value = value;
  return input;
}

const ticked = (within) => [...within.querySelectorAll("label input")];

function swatches() {
  const items = [...box.children];
  items.forEach((item, i) => {
    for (const swatch of item.querySelectorAll("i")) swatch.style.background = layerColour(i, items.length);
  });
}

function tick() {
  for (const input of ticked(box)) input.checked = state.shown.has(input.value);
  for (const all of box.querySelectorAll("[data-block]")) {
    const inside = ticked(all.closest("details")), on = inside.filter((input) => input.checked).length;
    all.checked = on === inside.length;
    all.indeterminate = on > 0 && on < inside.length;
  }
  document.getElementById("chosen").textContent = `${state.shown.size} of ${run().layersTotal} shown`;
}

function choose(names) {
  state.shown = new Set(names);
  tick();
  drawLayers();
}

function changed(event) {
  if ("block" in event.target.dataset) {
    for (const input of ticked(event.target.closest("details"))) input.checked = event.target.checked;
  }
  choose(ticked(box).filter((input) => input.checked).map((input) => input.value));
}

function find(wanted) {
  for (const label of box.querySelectorAll("label")) label.hidden = !label.textContent.toLowerCase().includes(wanted);
  for (const group of box.querySelectorAll("details")) {
    const found = group.querySelectorAll("label:not([hidden])").length;
    group.hidden = !found;
    group.open = wanted !== "" && found > 0;
  }
}

// The penalised layers and what is named; without a penalty all that are no biases, so that these are folded away.
function usual() {
  const {layers, penalised, named} = run(), told = new Map(named), held = penalised.some((p) => p);
  const found = layers.filter((name, i) => told.has(name) || (held ? penalised[i] : !/(^|[._])bias(_\w+)?$/.test(name)));
  return found.length ? found : layers;
}

const choices = {
  all: () => run().layers,
  none: () => [],
  penalised: usual,
  named: () => { const told = new Map(run().named); return run().layers.filter((name) => told.has(name)); },
};
