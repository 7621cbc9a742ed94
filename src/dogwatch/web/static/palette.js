// The command palette (Ctrl-K, ?) and the keys that go to pages: "g o", "g j"… Pages are those of the navigation.
import { t } from "./words.js";

const LETTERS = { "/": "o", "/incidents": "i", "/reports/availability": "y", "/logs": "l", "/compare": "v", "/fleet": "f", "/jobs": "j", "/runs": "r", "/schedules": "s", "/workers": "k", "/webhooks": "w", "/deliveries": "d", "/outbox": "m", "/users": "u", "/audit": "a", "/settings": "p", "/settings/configuration": "c", "/reports/daily": "b", "/tokens": "t", "/rules": "e", "/maintenance": "n" };
const BELOW = { "/": [["/compare", t("Compare")]], "/incidents": [["/rules", t("Rules")], ["/maintenance", t("Maintenance")]], "/webhooks": [["/deliveries", t("Deliveries")]], "/reports/availability": [["/reports/daily", t("Daily inspection")]], "/fleet": [["/fleet/plans", t("Planned changes")]], "/settings": [["/settings/configuration", t("Configuration")], ["/tokens", t("API tokens")]] };
const CHORD_MS = 1200;
const PAUSE_MS = 120;

let dialog = null;
let input;
let list;
let told;
let hits = [];
let chosen = 0;
let asked = 0; // answers that were overtaken are dropped
let timer = 0;

function pages() {
  const places = [...document.querySelectorAll(".places a")].map((one) => [one.getAttribute("href"), one.textContent]);
  return places.flatMap((one) => [one, ...(BELOW[one[0]] ?? [])]).map(([path, name]) => ({ kind: t("page"), name, path, note: "", letter: LETTERS[path] }));
}

function element(tag, text, className) {
  const one = document.createElement(tag);
  one.textContent = text;
  if (className) one.className = className;
  return one;
}

function option(hit, index) {
  const item = document.createElement("li");
  item.id = `palette-${index}`;
  item.setAttribute("role", "option");
  item.append(element("span", hit.kind, "muted"), element("span", hit.name));
  if (hit.note) item.append(element("span", hit.note, "muted"));
  if (hit.letter) item.append(element("kbd", `g ${hit.letter}`));
  item.addEventListener("click", () => go(hit.path));
  return item;
}

function choose(index) {
  chosen = hits.length ? (index + hits.length) % hits.length : 0;
  [...list.children].forEach((item, at) => item.setAttribute("aria-selected", String(at === chosen)));
  const item = list.children[chosen];
  if (item) { input.setAttribute("aria-activedescendant", item.id); item.scrollIntoView({ block: "nearest" }); }
  else input.removeAttribute("aria-activedescendant");
}

function show(found) {
  hits = found;
  list.replaceChildren(...found.map(option));
  list.hidden = !found.length;
  input.setAttribute("aria-expanded", String(Boolean(found.length)));
  told.textContent = found.length ? t("{0} found", found.length) : t("Nothing of that name that you may see.");
  told.className = found.length ? "unseen" : "muted";
  choose(0);
}

function look() {
  const text = input.value.trim();
  const words = text.toLowerCase().split(/\s+/);
  const known = pages().filter((page) => words.every((word) => page.name.toLowerCase().includes(word)));
  clearTimeout(timer);
  const turn = ++asked;
  if (!text) return show(known);
  if (known.length) show(known);
  timer = setTimeout(async () => {
    const answer = await fetch(`/fragments/palette?${new URLSearchParams({ q: text.slice(0, 200) })}`, { headers: { accept: "application/json" } }).catch(() => null);
    const found = answer?.ok ? await answer.json() : [];
    if (turn !== asked || !dialog) return;
    show([...known, ...found]);
    if (!answer?.ok) { told.textContent = t("Dogwatch does not answer: only pages are found."); told.className = "muted"; }
  }, PAUSE_MS);
}

function go(path) {
  dialog?.close();
  location.assign(path);
}

function onKey(event) {
  if (event.isComposing) return;
  if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen - 1);
  else if (event.key === "Enter") { if (hits[chosen]) go(hits[chosen].path); }
  else return;
  event.preventDefault();
}

function open() {
  if (document.querySelector("dialog[open]")) return;
  dialog?.remove(); // closed, but not yet told so
  const own = dialog = document.createElement("dialog");
  dialog.className = "palette";
  dialog.setAttribute("aria-label", t("Search and keys"));
  input = document.createElement("input");
  for (const [name, value] of Object.entries({ type: "text", role: "combobox", "aria-label": t("Search pages, targets, jobs, runs, schedules and hosts"), "aria-controls": "palette-list", "aria-autocomplete": "list", placeholder: t("Go to a page, target, job, run, schedule or host"), autocomplete: "off", spellcheck: "false", maxlength: "200" })) input.setAttribute(name, value);
  list = document.createElement("ul");
  list.id = "palette-list";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", t("Found"));
  told = element("p", "", "unseen");
  told.setAttribute("role", "status");
  const keys = element("p", "", "keys muted");
  for (const [key, what] of [["?", t("this, as Ctrl K")], ["/", t("filter")], ["g o", t("overview")], ["g i", t("incidents")], ["g r", t("runs")], ["g s", t("schedules")], ["Esc", t("close")]]) {
    const one = element("span", "");
    one.append(element("kbd", key), ` ${what}`);
    keys.append(one);
  }
  dialog.append(input, list, told, keys);
  input.addEventListener("input", look);
  input.addEventListener("keydown", onKey);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    own.remove();
    if (dialog !== own) return;
    dialog = null;
    clearTimeout(timer);
    asked += 1;
  });
  document.body.append(dialog);
  dialog.showModal();
  look();
  input.focus();
}

export function startPalette() {
  if ("anonymous" in document.body.dataset) return;
  // Where the pages do not fit side by side, the one that is open is in sight.
  const here = document.querySelector(".places [aria-current]");
  const show = () => { here.closest("ul").scrollLeft = here.offsetLeft - 60; };
  if (here) { show(); addEventListener("resize", show); }
  let chord = 0;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "k") {
      event.preventDefault();
      if (dialog?.open) dialog.close(); else open();
      return;
    }
    const busy = event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, textarea, select, dialog");
    if (busy) { chord = 0; return; }
    if (event.key === "?") { event.preventDefault(); open(); return; }
    if (Date.now() - chord < CHORD_MS) {
      const page = pages().find((one) => one.letter === event.key);
      if (page) { event.preventDefault(); location.assign(page.path); }
    }
    chord = event.key === "g" ? Date.now() : 0;
  });
  document.addEventListener("click", (event) => { if (event.target.closest?.("[data-palette]")) open(); });
}
