// Heartbeat bars: drawn as bars.py draws them, with a tip for each bar by mouse, touch and arrow keys.
import { clock, duration } from "./times.js";
import { reasonOf, t } from "./words.js";

const SLOT = 6;
const SHAPES = {
  up: () => "3V21",
  degraded: () => "11V21",
  fail: (x) => `3V15M${x} 18V21`,
  off: () => "10V14",
};
const WORDS = { up: t("passed"), degraded: t("degraded"), fail: t("failed"), off: t("in maintenance") };

const slots = (bars) => bars.querySelector("svg").viewBox.baseVal.width / SLOT;
const values = (bars) => JSON.parse(bars.dataset.bars);

export function draw(bars, data) {
  const count = slots(bars);
  const paths = Object.fromEntries(Object.keys(SHAPES).map((name) => [name, ""]));
  data.forEach(([, , name], index) => {
    const x = (count - data.length + index) * SLOT + SLOT / 2;
    paths[name] += `M${x} ${SHAPES[name](x)}`;
  });
  for (const [name, path] of Object.entries(paths)) bars.querySelector(`.b-${name}`).setAttribute("d", path);
  const failed = data.filter(([, , name]) => name === "fail").length;
  const target = bars.closest("[data-target]")?.dataset.target ?? bars.getAttribute("aria-label").split(/: |：/)[0];
  bars.setAttribute("aria-label", failed ? t("{0}: last {1} checks, {2} failed", target, data.length, failed) : t("{0}: last {1} checks, all passed", target, data.length));
}

export function shapeOf(result) {
  if (result.status === "maintenance") return "off";
  if (!result.success) return "fail";
  return result.status === "degraded" ? "degraded" : "up";
}

// Adds a live result; returns whether it was new.
export function push(bars, result) {
  const data = values(bars);
  const time = Math.round(result.time_s * 10) / 10;
  // Already drawn by the server; but a clock that was set back must not stop the bars.
  const behind = data.length ? data[data.length - 1][0] - time : -1;
  if (behind >= 0 && behind < 60) return false;
  data.push([time, Math.round(result.duration_s * 10000) / 10, shapeOf(result), result.reason || ""]);
  const newest = data.slice(-slots(bars));
  bars.dataset.bars = JSON.stringify(newest);
  draw(bars, newest);
  return true;
}

let held = null; // the bars that the keyboard walks, and where

function show(bars, index) {
  const data = values(bars);
  const entry = data[index];
  const tip = document.getElementById("tip");
  if (!entry) { tip.hidden = true; return; }
  const [time, ms, name, reason] = entry;
  tip.textContent = `${clock(time)} · ${WORDS[name]}${reason ? `: ${reasonOf(reason)}` : ""} · ${duration(ms / 1000)}`;
  tip.hidden = false;
  const box = bars.querySelector("svg").getBoundingClientRect();
  const count = slots(bars);
  const x = box.left + ((count - data.length + index + 0.5) / count) * box.width;
  const left = Math.max(8, Math.min(x - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8));
  const above = box.top - tip.offsetHeight - 6;
  tip.style.transform = `translate(${left}px, ${above < 4 ? box.bottom + 6 : above}px)`;
}

function indexAt(bars, clientX) {
  const box = bars.querySelector("svg").getBoundingClientRect();
  const count = slots(bars);
  return Math.floor(((clientX - box.left) / box.width) * count) - (count - values(bars).length);
}

function hide() { document.getElementById("tip").hidden = true; held = null; }

export function startBars() {
  document.addEventListener("pointermove", (event) => {
    const bars = event.target.closest?.(".bars");
    if (bars) show(bars, indexAt(bars, event.clientX));
    else if (!held && !event.target.closest?.(".u-over")) document.getElementById("tip").hidden = true;
  });
  document.addEventListener("pointerdown", (event) => { if (!event.target.closest?.(".bars")) hide(); });
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("focusin", (event) => {
    const bars = event.target.closest?.(".bars");
    if (!bars || !bars.matches(":focus-visible")) { if (held) hide(); return; }
    held = { bars, index: values(bars).length - 1 };
    show(bars, held.index);
  });
  document.addEventListener("focusout", (event) => { if (event.target.closest?.(".bars")) hide(); });
  document.addEventListener("keydown", (event) => {
    if (!held) return;
    const last = values(held.bars).length - 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -last - 1, End: last + 1 }[event.key];
    if (event.key === "Escape") return hide();
    if (!step) return;
    event.preventDefault();
    held.index = Math.max(0, Math.min(last, held.index + step));
    show(held.bars, held.index);
    document.getElementById("said").textContent = document.getElementById("tip").textContent;
  });
}
