// Shows <time data-t> in the viewer's zone; relative ones are kept true.
import { locale, t } from "./words.js";

const short = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dated = new Intl.DateTimeFormat(locale, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const whole = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });
const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });
const STEPS = [[60, 1, "second"], [3600, 60, "minute"], [86400, 3600, "hour"], [Infinity, 86400, "day"]];

export function clock(seconds) {
  const then = new Date(seconds * 1000);
  return (Math.abs(Date.now() - then) < 20 * 3600 * 1000 ? short : dated).format(then);
}

export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  if (Math.abs(past) < 5) return t("just now");
  const [, size, unit] = STEPS.find(([below]) => Math.abs(past) < below);
  return relative.format(-Math.round(past / size), unit);
}

// How long something has lasted: "40 s", "5 min", "3 h 20 min", "2 d 4 h".
export function span(since) {
  let rest = Math.max(0, Math.round(Date.now() / 1000 - since));
  const parts = [];
  const units = [[86400, (n) => t("{0} d", n)], [3600, (n) => t("{0} h", n)], [60, (n) => t("{0} min", n)], [1, (n) => t("{0} s", n)]];
  for (const [size, form] of units) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count) parts.push(form(count));
    if (parts.length === 2 || (parts.length && size === 60)) break;
  }
  return parts.join(" ") || t("{0} s", 0);
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.0001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.001) return `${Number((seconds * 1000).toPrecision(2))} ms`;
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(3))} ms`;
  return `${Number(seconds.toPrecision(3))} s`;
}

function ahead(left) {
  const [, size, unit] = STEPS.find(([below]) => left < below * 1.5) ?? STEPS.at(-1);
  return relative.format(Math.round(left / size), unit);
}

// How long until: "first check in 3 s", "now" when it should be under way.
export function until(then, lead) {
  const left = Math.ceil(then - Date.now() / 1000);
  const text = left <= 0 ? t("now") : left < 90 ? t("in {0} s", left) : ahead(left);
  return lead ? `${lead} ${text}` : text;
}

export function showTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-t]")) showTime(element);
}

function showTime(element) {
  const seconds = Number(element.dataset.t);
  const { relative: isRelative, span: isSpan, until: lead } = element.dataset;
  const text = element.dataset.dated !== undefined ? whole.format(new Date(seconds * 1000)) : lead !== undefined ? until(seconds, lead) : isSpan === "bare" ? span(seconds) : isSpan !== undefined ? t("for {0}", span(seconds)) : isRelative !== undefined ? ago(seconds) : clock(seconds);
  if (element.textContent !== text) element.textContent = text;
  if (!element.title) element.title = full.format(new Date(seconds * 1000));
}

export function startTimes() {
  const zone = document.getElementById("zone");
  if (zone) zone.textContent = ` (${Intl.DateTimeFormat().resolvedOptions().timeZone})`;
  showTimes();
  let turn = 0;
  setInterval(() => {
    if (document.hidden) return;
    turn += 1;
    // What counts down moves every second, the rest need not.
    if (turn % 10 === 0) showTimes();
    else for (const one of document.querySelectorAll("time[data-until]")) showTime(one);
  }, 1000);
  // On paper "3 min ago" says nothing.
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("time[data-relative], time[data-until]")) one.textContent = whole.format(new Date(one.dataset.t * 1000));
  });
  addEventListener("afterprint", () => showTimes());
  document.addEventListener("htmx:after:swap", () => showTimes());
  document.addEventListener("dogwatch:fresh", () => showTimes());
}
