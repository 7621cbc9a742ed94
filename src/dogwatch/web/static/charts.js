// Charts: latency of a target (phases stacked where there are phases), series of a host. uPlot is loaded when first
// needed.
import { colour } from "./drawing.js";
import { refresh } from "./live.js";
import { compared, hostSeries } from "./series.js";
import { clock, duration } from "./times.js";
import { locale, t } from "./words.js";

const PHASES = [["resolve_s", t("Look up")], ["connect_s", t("Connect")], ["tls_s", "TLS"], ["first_byte_s", t("First byte")], ["transfer_s", t("Transfer")]];
const RANGES = ["1h", "24h", "7d", "30d"];
const RANGE_KEY = "dogwatch.range";
const SPANS_S = { "1h": 3600, "24h": 86400, "7d": 604800, "30d": 2592000 };
const EVERY_MS = 30_000;
const SOON_MS = 5_000; // while the history is so short that every result moves it
const YOUNG_S = 3 * 3600;
const seconds = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit", second: "2-digit" });
const hours = new Intl.DateTimeFormat(locale, { hour: "numeric", minute: "2-digit" });
const days = new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" });
let library = null;

function loadLibrary() {
  library ||= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.body.dataset.uplot;
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => { library = null; reject(new Error(t("the chart library did not load"))); };
    document.head.append(script);
  });
  return library;
}

// Each maker returns { x, columns, series, bands, format, summary, failures, rows(index) }.
function latency(body) {
  const points = body.points;
  const x = points.map((one) => one.time_s);
  const failures = points.map((one) => one.failures);
  const total = points.map((one) => one.mean_s);
  const known = total.filter((one) => one !== null);
  const mean = known.length ? known.reduce((sum, one) => sum + one, 0) / known.length : null;
  const failed = failures.reduce((sum, one) => sum + one, 0);
  const high = points.map((one) => one.p95_s);
  const dashed = { label: "p95", stroke: colour("--muted"), width: 1.2, points: { show: false } };
  const steps = (index) => [["p50", "p50_s"], ["p95", "p95_s"], ["p99", "p99_s"]].map(([label, key]) => [label, duration(points[index][key])]);
  const max = points.reduce((most, one) => (one.max_s !== null && one.max_s > most ? one.max_s : most), 0);
  const common = {
    x, failures, format: duration,
    summary: known.length
      ? t("mean {0}, slowest {1}, {2}", duration(mean), duration(max), failed ? t("{0} failed", failed) : t("none failed"))
      : failed ? t("all {0} failed", failed) : "",
  };
  if (points.some((one) => one.phases && PHASES.some(([key]) => one.phases[key] > 0))) {
    const stacked = PHASES.map(() => []);
    points.forEach((one, index) => {
      let sum = 0;
      PHASES.forEach(([key], at) => {
        sum += one.phases ? one.phases[key] : 0;
        stacked[at][index] = one.phases && one.mean_s !== null ? sum : null;
      });
    });
    const order = PHASES.map(([key, label], at) => ({ key, label, column: stacked[at] })).reverse();
    return {
      ...common,
      columns: [...order.map((one) => one.column), high],
      series: [...order.map((one) => {
        const ink = colour(`--${one.key.replace("_s", "").replace("_", "-")}`);
        return { label: one.label, stroke: ink, fill: ink, width: 1, points: { show: false } };
      }), dashed],
      keys: [...PHASES.map(([key, label]) => [label, colour(`--${key.replace("_s", "").replace("_", "-")}`)]), ["p95", dashed.stroke]],
      rows: (index) => [
        [t("Total"), duration(total[index])],
        ...PHASES.map(([key, label]) => [label, duration(points[index].phases?.[key])]),
        ...steps(index),
      ],
    };
  }
  const ink = colour("--line");
  return {
    ...common,
    columns: [points.map((one) => one.max_s), points.map((one) => one.min_s), total, high],
    series: [
      { label: t("Slowest"), stroke: "transparent", points: { show: false } },
      { label: t("Fastest"), stroke: "transparent", points: { show: false } },
      { label: t("Mean"), stroke: ink, width: 2, points: { show: known.length < 3, size: 6 } },
      dashed,
    ],
    bands: [{ series: [1, 2], fill: `color-mix(in srgb, ${ink} 22%, transparent)` }],
    keys: [[t("Mean"), ink], ["p95", dashed.stroke], [t("Fastest to slowest"), `color-mix(in srgb, ${ink} 30%, transparent)`]],
    rows: (index) => [
      [t("Mean"), duration(total[index])],
      [t("Fastest"), duration(points[index].min_s)],
      [t("Slowest"), duration(points[index].max_s)],
      ...steps(index),
    ],
  };
}

function failureMarks(model) {
  return (plot) => {
    if (!model.failures) return;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = colour("--down");
    const width = Math.max(2 * devicePixelRatio, Math.min(8 * devicePixelRatio, bbox.width / Math.max(1, model.x.length) - 1));
    model.failures.forEach((count, index) => {
      if (!count) return;
      const x = plot.valToPos(model.x[index], "x", true);
      ctx.fillRect(x - width / 2, bbox.top + bbox.height - 8 * devicePixelRatio, width, 8 * devicePixelRatio);
    });
    ctx.restore();
  };
}

function tipFor(model) {
  return (plot) => {
    const tip = document.getElementById("tip");
    const index = plot.cursor.idx;
    if (index === null || index === undefined || plot.cursor.left < 0 || !plot.over.matches(":hover")) { if (plot.root.closest(".chart").matches("[data-shared]") && document.querySelector(".u-over:hover")) return; tip.hidden = true; return; }
    const lines = [clock(model.x[index]), ...model.rows(index).map(([name, value]) => `${name}  ${value}`)];
    if (model.failures?.[index]) lines.push(t("{0} failed", model.failures[index]));
    tip.textContent = lines.join("\n");
    tip.hidden = false;
    const box = plot.over.getBoundingClientRect();
    const edge = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const right = box.left + plot.cursor.left + 14;
    const left = right > edge ? box.left + plot.cursor.left - tip.offsetWidth - 14 : right;
    tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, box.top + 8)}px)`;
  };
}

function showKeys(figure, model) {
  let list = figure.querySelector(".chart-key");
  if (!list) {
    list = document.createElement("ul");
    list.className = "key chart-key";
    figure.querySelector(".plot").after(list);
  }
  const keys = model.failures?.some(Boolean) ? [...model.keys, [t("Failed checks"), colour("--down")]] : model.keys;
  list.replaceChildren(...keys.map(([label, ink]) => {
    const entry = document.createElement("li");
    const patch = document.createElement("span");
    patch.className = "patch";
    patch.style.background = ink;
    entry.append(patch, label);
    return entry;
  }));
}

// When a history begins, or null: its first bucket that holds something.
function beginning(body) {
  if (body.compared) return null;
  if (body.points) return body.points.find((one) => one.count)?.time_s ?? null;
  const firsts = body.series.flatMap((one) => one.times_s.slice(0, 1));
  return firsts.length ? Math.min(...firsts) : null;
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.plotted = null;
    this.number = 0;
    this.shared = "shared" in figure.dataset;
    let range = new URLSearchParams(location.search).get("range");
    if (!this.shared) try { range ||= localStorage.getItem(RANGE_KEY); } catch { /* may be forbidden */ }
    // Nobody chose: what is not watched for long begins with its last hour.
    this.unchosen = !range && figure.dataset.range === "24h";
    this.range = RANGES.includes(range) ? range : figure.dataset.range;
    this.buttons = this.shared ? document.querySelector(".chart-ranges") : figure;
    this.clicked = (event) => {
      const button = event.target.closest("button[data-range]");
      if (button) this.choose(button.dataset.range);
    };
    this.buttons.addEventListener("click", this.clicked);
    figure.addEventListener("dogwatch:close", () => this.close());
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(figure.querySelector(".plot"));
    this.themed = () => this.load();
    document.addEventListener("dogwatch:theme", this.themed);
    this.press();
    this.load();
  }

  press() {
    for (const one of this.buttons.querySelectorAll("button[data-range]")) {
      one.setAttribute("aria-pressed", String(one.dataset.range === this.range));
    }
  }

  choose(range) {
    this.unchosen = false;
    this.range = range;
    this.press();
    if (!this.shared) try { localStorage.setItem(RANGE_KEY, range); } catch { /* may be forbidden */ }
    if (document.querySelector("[data-target-page]") || this.shared) {
      const url = new URL(location);
      url.searchParams.set("range", range);
      history.replaceState(history.state, "", url);
    }
    // What is told beside the charts is of the same time.
    for (const part of document.querySelectorAll("[data-ranged]")) {
      if (part.dataset.refresh === part.dataset.ranged + range) continue;
      part.dataset.refresh = part.dataset.ranged + range;
      refresh(part.id);
    }
    this.load();
  }

  async fetched(since) {
    if (!this.figure.dataset.compare) return this.asked(this.figure.dataset.chartSrc, since);
    const found = await Promise.all(JSON.parse(this.figure.dataset.compare).map(async ([name, source]) => ({ name, ...(await this.asked(source, since)) })));
    return { compared: found, since_s: Math.min(...found.map((one) => one.since_s)), until_s: Math.max(...found.map((one) => one.until_s)) };
  }

  async asked(source, since) {
    const query = new URLSearchParams({ points: innerWidth < 600 || this.figure.dataset.compare ? 120 : 300, ...(since ? { since_s: since } : { range: this.range }) });
    const answer = await fetch(`${source}${source.includes("?") ? "&" : "?"}${query}`);
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail);
    return body;
  }

  async load() {
    const number = ++this.number;
    clearTimeout(this.timer);
    let young = false;
    try {
      const [uPlot, whole] = await Promise.all([loadLibrary(), this.fetched()]);
      if (number !== this.number) return;
      let body = whole;
      const began = beginning(body);
      if (this.unchosen && began !== null && began > body.until_s - YOUNG_S) {
        this.unchosen = false;
        this.range = "1h";
        this.press();
        return this.load();
      }
      this.unchosen = false;
      // The first minutes fill the chart instead of a sliver at its edge.
      young = this.range === "1h" && began !== null && began > body.until_s - SPANS_S["1h"] / 2;
      if (young) body = await this.fetched(Math.min(began - 5, body.until_s - 60));
      if (number !== this.number) return;
      this.draw(uPlot, body);
    } catch (error) {
      if (number === this.number && !this.plotted) this.figure.querySelector(".plot").textContent = error.message;
    } finally {
      if (number === this.number) this.again(young ? SOON_MS : EVERY_MS);
    }
  }

  again(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      if (!this.figure.isConnected) this.close();
      else if (document.hidden) this.again(wait);
      else this.load();
    }, wait);
  }

  draw(uPlot, body) {
    const model = body.compared ? compared(body.compared, this.figure.dataset) : body.points ? latency(body) : hostSeries(body, this.figure);
    const place = this.figure.querySelector(".plot");
    this.plotted?.destroy();
    this.plotted = null;
    const label = this.figure.dataset.label;
    this.figure.querySelector("figcaption").textContent = model.summary ? `${label}: ${model.summary}` : label;
    const span = body.until_s - body.since_s;
    const ticks = span <= 300 ? seconds : span <= 2 * 86400 ? hours : days;
    if (!model.summary) { this.figure.querySelector(".chart-key")?.remove(); place.textContent = t("No data in this time."); return; }
    place.textContent = "";
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    this.plotted = new uPlot({
      width: place.clientWidth || 300,
      height: Number(this.figure.dataset.height),
      legend: { show: false },
      cursor: { sync: this.shared ? { key: "shared" } : undefined, y: false, drag: { x: false, y: false }, points: { size: 7 } },
      scales: {
        x: { range: [body.since_s, body.until_s] },
        y: { range: (_plot, _low, high) => [0, model.top && high > model.top / 2 ? Math.max(model.top, high) : high > 0 ? high * 1.08 : 1] },
      },
      axes: [
        {
          ...axis, space: 80, size: 30,
          values: (_plot, marks) => marks.map((one) => ticks.format(one * 1000)),
        },
        { ...axis, size: 68, ...(model.steps ? { incrs: model.steps } : {}), values: (_plot, ticks) => ticks.map((one) => (one === 0 ? "0" : model.format(one))) },
      ],
      series: [{}, ...model.series],
      bands: model.bands,
      hooks: { draw: [failureMarks(model)], setCursor: [tipFor(model)] },
    }, [model.x, ...model.columns], place);
    this.plotted.over.addEventListener("mouseleave", () => { document.getElementById("tip").hidden = true; });
    const canvas = place.querySelector("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", t("{0}, last {1}: {2}", label, this.range, model.summary));
    showKeys(this.figure, model);
  }

  resize() {
    const width = this.figure.querySelector(".plot").clientWidth;
    if (this.plotted && width && Math.abs(width - this.plotted.width) > 1) {
      this.plotted.setSize({ width, height: Number(this.figure.dataset.height) });
    }
  }

  close() {
    clearTimeout(this.timer);
    this.number += 1;
    this.buttons.removeEventListener("click", this.clicked);
    this.observer.disconnect();
    document.removeEventListener("dogwatch:theme", this.themed);
    this.plotted?.destroy();
  }
}

function begin(figure) {
  if ("begun" in figure.dataset) return;
  figure.dataset.begun = "";
  new Chart(figure);
}

// A chart as the server's template makes it.
export function makeChart(source, label) {
  const figure = document.createElement("figure");
  figure.className = "chart";
  Object.assign(figure.dataset, { chartSrc: source, range: "24h", height: "200", label });
  const ranges = document.createElement("div");
  ranges.className = "ranges";
  ranges.setAttribute("role", "group");
  ranges.setAttribute("aria-label", t("Time shown"));
  for (const one of RANGES) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.range = one;
    button.textContent = `${one.slice(0, -1)} ${one.slice(-1)}`;
    ranges.append(button);
  }
  const plot = document.createElement("div");
  plot.className = "plot";
  const caption = document.createElement("figcaption");
  caption.className = "muted";
  figure.append(ranges, plot, caption);
  // After it stands in the page, so that it knows its width.
  queueMicrotask(() => begin(figure));
  return figure;
}

export function startCharts() {
  for (const figure of document.querySelectorAll(".chart")) begin(figure);
}
