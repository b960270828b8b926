// From the packed numbers of a run to the lines that are drawn of it.

// The upper halves of float32 numbers, little-endian, as encode.py writes them.
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const halves = new DataView(bytes.buffer), words = new Uint32Array(bytes.length / 2);
  for (let i = 0; i < words.length; i++) words[i] = halves.getUint16(2 * i, true) << 16;
  return new Float32Array(words.buffer);
}

const PARTS = ["mean", "low", "high", "weight"];

// A quantity by layer: names, steps x [W], and of each layer its mean, low, high (and weight) [W]; windows that hold
// nothing of any layer are left out. `entries`: what a mean over layers weighs them by.
function table(run, which) {
  const packed = run.tables?.[which];
  if (!packed || packed.rows) return packed ?? null;
  const count = packed.names.length, all = {};
  for (const part of PARTS) if (packed[part]) all[part] = unpacked(packed[part]);
  const windows = all.mean.length / count, kept = [];
  for (let w = 0; w < windows; w++) {
    for (let i = 0; i < count; i++) {
      if (!Number.isNaN(all.mean[i * windows + w])) { kept.push(w); break; }
    }
  }
  const entries = new Map(run.layers.map((name, i) => [name, run.numel[i]]));
  packed.rows = packed.names.map((name, i) => {
    const row = {name, entries: entries.get(name) ?? 1};
    for (const part in all) row[part] = kept.map((w) => all[part][i * windows + w]);
    row.low ??= row.mean;
    row.high ??= row.mean;
    return row;
  });
  packed.x = kept.map((w) => run.x[w]);
  packed.smooth = Math.max(1, Math.round((run.pass * kept.length) / windows));
  return packed;
}

// One line for several layers: the mean over their entries, smoothed, and the range of all of them.
function joined(t, rows) {
  const size = t.x.length, mean = new Array(size), low = new Array(size), high = new Array(size);
  for (let w = 0; w < size; w++) {
    let sum = 0, weights = 0, least = Infinity, most = -Infinity;
    for (const row of rows) {
      const weight = row.weight ? row.weight[w] : row.entries, value = row.mean[w];
      if (Number.isNaN(value)) continue;
      least = Math.min(least, row.low[w]);
      most = Math.max(most, row.high[w]);
      if (weight > 0) { sum += weight * value; weights += weight; }
    }
    mean[w] = weights > 0 ? sum / weights : NaN;
    low[w] = least <= most ? least : NaN;
    high[w] = least <= most ? most : NaN;
  }
  return {x: t.x, y: smoothed(mean, t.smooth), low, high};
}

// The mean over `size` neighbours of what is known, fewer at the ends, as many on both sides; a gap stays one.
function smoothed(values, size) {
  if (size < 2) return values;
  const half = Math.floor(size / 2);
  return values.map((value, i) => {
    if (Number.isNaN(value)) return NaN;
    const reach = Math.min(half, i, values.length - 1 - i);
    let sum = 0, count = 0;
    for (let k = i - reach; k <= i + reach; k++) {
      if (!Number.isNaN(values[k])) { sum += values[k]; count++; }
    }
    return sum / count;
  });
}

// The outline of a range: along the upper ends and back along the lower ones, one piece for each stretch without gap.
function outline(x, low, high, log) {
  const xs = [], ys = [], floor = log ? Math.min(...[...low, ...high].filter((y) => y > 0)) : -Infinity;
  const known = x.map((_, i) => (log ? high[i] > 0 : Number.isFinite(high[i])));
  for (let start = 0; start < x.length; start++) {
    if (!known[start] || known[start - 1]) continue;
    let end = start;
    while (known[end + 1]) end++;
    if (xs.length) { xs.push(NaN); ys.push(NaN); }
    for (let i = start; i <= end; i++) { xs.push(x[i]); ys.push(high[i]); }
    for (let i = end; i >= start; i--) { xs.push(x[i]); ys.push(Math.max(low[i], floor)); }
  }
  return {xs, ys};
}

const positive = (values) => values.map((y) => (y > 0 ? y : NaN));
const numbers = (values) => values.map((y) => y ?? NaN);
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const largest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

// What a metric is one of: its name without the data it was measured on.
const kindOf = (name) => name.replace(/^(train|training|val|valid|validation|test|eval|dev)[_/. -]+/i, "");
const SHARE = /acc|auc|f1|precision|recall|iou|dice|top.?\d/i;
