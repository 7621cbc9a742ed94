// What a host's chart draws: lines, or modes of CPU time upon each other, named by their labels.
import { colour, size } from "./drawing.js";
import { duration } from "./times.js";
import { t } from "./words.js";

const INKS = ["--line", "--connect", "--transfer", "--tls", "--resolve", "--first-byte", "--degraded-bar", "--muted"];
// A mode of CPU time keeps its colour, and its place from below.
const MODES = { user: "--line", system: "--connect", iowait: "--tls", nice: "--resolve", softirq: "--transfer", irq: "--first-byte", steal: "--down-bar" };
const NAMES = {
  dogwatch_host_memory_used_ratio: t("memory"), dogwatch_host_swap_used_ratio: t("swap"),
  node_load1: t("{0} min", 1), node_load5: t("{0} min", 5), node_load15: t("{0} min", 15),
  dogwatch_host_network_receive_bytes_per_s: t("in"), dogwatch_host_network_transmit_bytes_per_s: t("out"),
  dogwatch_host_disk_read_bytes_per_s: t("read"), dogwatch_host_disk_written_bytes_per_s: t("written"),
  dogwatch_host_processes: t("processes"), node_memory_MemAvailable_bytes: t("available"),
};

const RESOURCES = { cpu: t("CPU"), io: t("disks"), memory: t("memory"), irq: t("interrupts") };

// Marks of an axis of sizes: 1, 2, 4 … 512 of each unit.
const BINARY = Array.from({ length: 50 }, (_one, power) => 2 ** power);

// What a series without labels is called, where its chart has only the one.
const WHOLE = { dogwatch_host_cpu_ratio: t("CPU"), dogwatch_host_filesystem_used_ratio: t("in use"), dogwatch_host_pressure_ratio: t("stalled") };
const percent = (value) => (value === null || value === undefined ? "–" : `${Number((value * 100).toPrecision(3))} %`);
const plain = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))));
const bytes = (value) => (value === null || value === undefined ? "–" : size(value));
const FORMATS = { latency: duration,  ratio: percent, bytes, rate: (value) => (value === null || value === undefined ? "–" : `${size(value)}/s`), number: plain };

// `name{mode="user"}` → ["name", {mode: "user"}]
function parts(series) {
  const [, name, inside] = /^([^{]*)(?:\{(.*)\})?$/s.exec(series);
  const labels = {};
  for (const [, key, value] of (inside || "").matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    labels[key] = value.replace(/\\(.)/g, (_all, one) => (one === "n" ? "\n" : one));
  }
  return [name, labels];
}

function named(one) {
  const [name, labels] = parts(one.series);
  const known = NAMES[name];
  if (labels.resource) {
    const what = RESOURCES[labels.resource] ?? labels.resource;
    return { label: labels.kind === "stalled" ? t("{0}, everything", what) : what, mode: "", name };
  }
  const label = [...Object.values(labels), known].filter(Boolean).join(" ");
  return { label: label || WHOLE[name] || name, mode: labels.mode || "", name };
}

const mean = (values) => {
  const known = values.filter((one) => one !== null);
  return known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : 0;
};

export function hostSeries(body, figure) {
  const { unit = "number", rows = "6" } = figure.dataset;
  const stacks = "stack" in figure.dataset;
  const format = FORMATS[unit];
  const all = body.series.map((one) => ({ ...one, ...named(one), mean: mean(one.values) }));
  const busy = all.filter((one) => one.mean > 0);
  let shown = (busy.length ? busy : all).sort((a, b) => b.mean - a.mean).slice(0, Number(rows));
  const order = Object.keys(MODES);
  if (stacks) shown.sort((a, b) => order.indexOf(a.mode) - order.indexOf(b.mode));
  else {
    // As the chart asks for them: the server answers in alphabetical order.
    const asked = (new URLSearchParams(figure.dataset.chartSrc.split("?")[1]).get("metric") || "").split(",");
    shown.sort((a, b) => asked.indexOf(a.name) - asked.indexOf(b.name) || (a.label < b.label ? -1 : 1));
  }
  const x = [...new Set(shown.flatMap((one) => one.times_s))].sort((a, b) => a - b);
  const values = shown.map((one) => {
    const at = new Map(one.times_s.map((time, index) => [time, one.values[index]]));
    return x.map((time) => at.get(time) ?? null);
  });
  const inks = shown.map((one, index) => colour(MODES[one.mode] || INKS[index % INKS.length]));
  const clear = (ink, share) => `color-mix(in srgb, ${ink} ${share}%, transparent)`;
  let columns = values;
  if (stacks) {
    const sums = x.map(() => 0);
    columns = values.map((column) => column.map((value, index) => (value === null ? null : (sums[index] += value))));
  }
  const drawn = columns.map((column, index) => ({
    column,
    series: {
      label: shown[index].label, stroke: inks[index], width: stacks ? 1 : 1.7, points: { show: x.length < 2, size: 6 },
      fill: stacks ? `color-mix(in srgb, ${inks[index]} 80%, ${colour("--card")})` : columns.length === 1 ? clear(inks[index], 18) : undefined,
    },
  }));
  // The uppermost sum is drawn first, so that those below cover it.
  if (stacks) drawn.reverse();
  const total = (index) => columns.length ? columns[columns.length - 1][index] : null;
  const lines = shown.map((one, at) => [one.label, (index) => format(values[at][index])]);
  if (stacks) lines.push([t("All"), (index) => format(total(index))]);
  const last = x.length - 1;
  return {
    x, format, failures: null,
    top: unit === "ratio" ? 1 : null,
    steps: unit === "bytes" || unit === "rate" ? BINARY : undefined,
    columns: drawn.map((one) => one.column),
    series: drawn.map((one) => one.series),
    summary: x.length ? (stacks ? t("now {0}", format(total(last))) : shown.slice(0, 3).map((one, at) => `${one.label} ${format(values[at][last])}`).join(", ")) : "",
    keys: shown.length > 1 || shown[0]?.name !== "dogwatch_host_processes" ? shown.map((one, index) => [one.label, inks[index]]) : [],
    rows: (index) => (stacks ? lines.slice().reverse() : lines).map(([name, value]) => [name, value(index)]),
  };
}

// Several targets, or hosts, over one axis of time: a line each, in the order in which they were chosen.
export function compared(found, { value, unit = "number" }) {
  const format = FORMATS[unit];
  const lines = found.map((one) => {
    const points = one.points ? one.points.map((point) => [point.time_s, point[value]]) : summed(one.series);
    return { label: one.name, at: new Map(points) };
  });
  const x = [...new Set(lines.flatMap((one) => [...one.at.keys()]))].sort((a, b) => a - b);
  const columns = lines.map((one) => x.map((time) => one.at.get(time) ?? null));
  const inks = lines.map((_one, index) => colour(`--c-${index}`));
  const told = (column) => { const known = column.filter((one) => one !== null); return known.length ? format(known.reduce((sum, one) => sum + one, 0) / known.length) : "–"; };
  return {
    x, format, columns, failures: null, top: unit === "ratio" ? 1 : null, steps: unit === "rate" ? BINARY : undefined,
    // Buckets of different widths leave holes between them that are none.
    series: lines.map((one, index) => ({ label: one.label, stroke: inks[index], width: 1.8, spanGaps: true, points: { show: x.length < 2, size: 6 } })),
    summary: x.length ? lines.map((one, index) => `${one.label} ${told(columns[index])}`).join(", ") : "",
    keys: lines.map((one, index) => [one.label, inks[index]]),
    rows: (index) => lines.map((one, at) => [one.label, format(columns[at][index])]),
  };
}

// What a host has in several series (modes of CPU time, devices) counts together.
function summed(series) {
  const sums = new Map();
  for (const one of series) one.times_s.forEach((time, index) => sums.set(time, (sums.get(time) ?? 0) + (one.values[index] ?? 0)));
  return [...sums].sort(([a], [b]) => a - b);
}
