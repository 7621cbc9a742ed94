// The board: what is folded stays folded, "/" goes to the filter, a row opens its chart.
import { makeChart } from "./charts.js";
import { t } from "./words.js";

const KEY = "dogwatch.folds";

function folds() {
  try { return JSON.parse(localStorage.getItem(KEY)) || {}; } catch { return {}; }
}

function keep(name, open) {
  const known = folds();
  delete known[name];
  known[name] = open;
  const newest = Object.entries(known).slice(-500);
  try { localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(newest))); } catch { /* may be forbidden */ }
}

function restore(root = document) {
  const known = folds();
  for (const element of root.querySelectorAll("details[data-keep]")) {
    const open = known[element.dataset.keep];
    if (open !== undefined && element.open !== open) element.open = open;
  }
}

function toggleChart(button) {
  const row = button.closest(".row");
  const present = row.querySelector(".chart");
  button.setAttribute("aria-expanded", String(!present));
  if (present) {
    present.dispatchEvent(new Event("dogwatch:close"));
    present.remove();
    return;
  }
  const name = row.dataset.target;
  row.append(makeChart(`/api/v1/targets/${encodeURIComponent(name)}/history`, t("Latency of {0}", name)));
}

export function startBoard() {
  restore();
  // `toggle` does not bubble, and comes after the swap that closed or opened by itself: only clicks are a choice.
  document.addEventListener("click", (event) => {
    const details = event.target.closest?.("summary")?.parentElement;
    if (details?.dataset.keep) keep(details.dataset.keep, !details.open);
    const button = event.target.closest?.("button[data-chart]");
    if (button) toggleChart(button);
  });
  document.addEventListener("htmx:after:swap", () => restore());
  document.addEventListener("dogwatch:fresh", () => restore());
  document.addEventListener("keydown", (event) => {
    const box = document.getElementById("q") ?? document.querySelector("[data-filter]");
    if (!box || document.querySelector("dialog[open]")) return;
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.target.closest("input, textarea, select")) {
      event.preventDefault();
      box.focus();
      box.select();
    }
    if (event.key === "Escape" && event.target === box) box.blur();
  });
}
