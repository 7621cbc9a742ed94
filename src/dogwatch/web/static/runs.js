// The run's page: what the server draws is fetched anew when the run moves; its output arrives by its own stream.
import { refresh, spoke } from "./live.js";
import { csrf, toast } from "./actions.js";
import { clock } from "./times.js";
import { t } from "./words.js";

const MOST_LINES = 5000;
const AT_ONCE_MS = 400;
// Colours and cursor movements of programs: a page is no terminal.
const ESCAPES = /\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

let box;
let source = null;
let after = 0;
let attempts = 0;
let timer = 0;
let dropped = 0;
const rests = new Map();
let fresh = [];

const follows = () => document.getElementById("o-follow").checked;

function wanted(line) {
  const step = document.getElementById("o-step").value;
  const text = document.getElementById("o-search").value.toLowerCase();
  return (!step || line.dataset.step === step) && (!text || line.lastChild.textContent.toLowerCase().includes(text));
}

function add(chunk, text) {
  const line = document.createElement("div");
  line.className = `out ${chunk.stream}`;
  line.dataset.step = chunk.step;
  const mark = document.createElement("span");
  mark.className = "mark";
  mark.textContent = chunk.step;
  mark.title = clock(chunk.time_s);
  const body = document.createElement("span");
  body.textContent = text.replace(ESCAPES, "").replace(/\r+$/, "").replace(/^.*\r/, "");
  line.append(mark, body);
  line.hidden = !wanted(line);
  fresh.push(line);
}

function take(chunk) {
  after = Math.max(after, chunk.sequence);
  const key = `${chunk.step}\n${chunk.stream}`;
  const lines = ((rests.get(key)?.text ?? "") + chunk.text).split("\n");
  const rest = lines.pop();
  for (const line of lines) add(chunk, line);
  if (chunk.stream === "note" && rest) add(chunk, rest);
  rests.set(key, { chunk, text: chunk.stream === "note" ? "" : rest });
  show();
}

function flush() {
  for (const { chunk, text } of rests.values()) if (text) add(chunk, text);
  rests.clear();
  show();
}

// Once a frame, however much arrives.
function show() {
  if (timer) return;
  timer = requestAnimationFrame(() => {
    timer = 0;
    box.append(...fresh);
    fresh = [];
    while (box.childElementCount > MOST_LINES) { box.firstElementChild.remove(); dropped += 1; }
    tell();
    if (follows()) box.scrollTop = box.scrollHeight;
  });
}

function tell() {
  const all = box.childElementCount;
  const hidden = box.querySelectorAll(".out[hidden]").length;
  const older = dropped ? t(", {0} older ones are not shown here", dropped) : "";
  document.getElementById("o-count").textContent = (!all ? t("Nothing was written yet.") : hidden ? t("{0} of {1} lines", all - hidden, all) : all === 1 ? t("1 line") : t("{0} lines", all)) + older;
}

function filter() {
  for (const line of box.children) line.hidden = !wanted(line);
  tell();
  if (follows()) box.scrollTop = box.scrollHeight;
}

let waiting = 0;
function moved() {
  waiting ||= setTimeout(() => { waiting = 0; refresh("run-now"); }, AT_ONCE_MS);
}

function connect(address) {
  source = new EventSource(`${address}?after=${after}`);
  let first = attempts === 0;
  source.addEventListener("output", (event) => { spoke(); take(JSON.parse(event.data)); });
  // The first of them say what the page shows already.
  const change = () => { if (!first) moved(); };
  source.addEventListener("step", change);
  source.addEventListener("run", () => { change(); first = false; });
  source.addEventListener("end", () => {
    source.close();
    flush();
    clearTimeout(waiting);
    waiting = 0;
    refresh("run-now");
  });
  source.onopen = () => { attempts = Math.min(attempts, 1); };
  const again = () => {
    source.close();
    attempts += 1;
    setTimeout(() => connect(address), 300 + Math.random() * Math.min(15_000, 500 * 2 ** attempts));
  };
  source.addEventListener("problem", again);
  source.addEventListener("bye", again);
  source.onerror = again;
}

// A run that a person may change: what it will do is shown first.
function ask({ title, effects, asks, go }) {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "ask-title");
  const form = document.createElement("form");
  form.method = "dialog";
  const head = document.createElement("h2");
  head.id = "ask-title";
  head.textContent = title;
  form.append(head, ...effects);
  let input = null;
  if (asks) {
    const label = document.createElement("label");
    label.textContent = asks;
    input = document.createElement("input");
    input.maxLength = 2000;
    input.autocomplete = "off";
    label.append(input);
    form.append(label);
  }
  const actions = document.createElement("div");
  actions.className = "actions";
  const yes = document.createElement("button");
  yes.className = "primary";
  yes.textContent = title;
  const no = document.createElement("button");
  no.type = "button";
  no.textContent = t("Leave it");
  no.addEventListener("click", () => dialog.close());
  actions.append(yes, no);
  form.append(actions);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    yes.disabled = true;
    go(input?.value ?? "").then(() => dialog.close(), (error) => { yes.disabled = false; toast(error.message, true); });
  });
  dialog.append(form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  (input ?? yes).focus();
}

export function idempotencyKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

export async function post(address, body, key) {
  const headers = { accept: "application/json", "content-type": "application/json", ...csrf() };
  if (key) headers["idempotency-key"] = key;
  const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(body) });
  const found = await answer.json();
  if (!answer.ok) throw new Error([found.detail, found.hint].filter(Boolean).join(". "));
  return found;
}

function order(button) {
  const known = document.querySelector(`template[data-order="${button.dataset.ask}"]`);
  const run = document.querySelector("[data-run]").dataset.run;
  const { verb, title, asks } = known.dataset;
  const key = idempotencyKey();
  ask({
    title,
    asks,
    effects: [...known.content.cloneNode(true).children],
    go: async (text) => {
      const body = JSON.parse(known.dataset.body);
      if (asks) body[verb === "decide" ? "comment" : "reason"] = text;
      const found = await post(`/api/v1/runs/${encodeURIComponent(run)}/${verb}`, body, verb === "rerun" ? key : "");
      if (verb === "rerun") location.assign(`/runs/${encodeURIComponent(found.run_id)}`);
      else { toast(t("{0}: done", title)); refresh("run-now"); }
    },
  });
}

// Any other change: its form says what it does (data-effect, or a fragment at data-plan), what to ask for (data-asks, into
// data-field of the body), which part of the page to draw anew (data-fresh), or where what it made is (data-leads).
async function confirmForm(form) {
  const { confirm: title, plan, asks, field, fresh, leads, from } = form.dataset;
  const key = "keyed" in form.dataset ? { key: idempotencyKey() } : {};
  let effects = (form.dataset.effect ?? "").split("\n").filter(Boolean).map((line) => {
    const effect = document.createElement("p");
    effect.textContent = line;
    return effect;
  });
  if (plan) {
    const answer = await fetch(plan, { headers: { accept: "text/html" } }).catch(() => null);
    if (!answer?.ok) return toast(t("What it would do cannot be shown now"), true);
    const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
    effects = [...effects, ...[...parsed.body.children].map((one) => document.adoptNode(one))];
  }
  ask({
    title,
    asks,
    effects,
    go: async (text) => {
      const found = await post(form.getAttribute("action"), { ...key, ...(field && text ? { [field]: text } : {}) });
      if (leads) { location.assign(leads + encodeURIComponent(found[from])); return; }
      toast(t("{0}: done", title));
      refresh(fresh ?? "workers-now");
    },
  });
}

function startOutput() {
  const section = document.querySelector("[data-output]");
  if (!section) return;
  box = document.getElementById("o-lines");
  tell();
  connect(section.dataset.output);
  addEventListener("pagehide", () => source?.close());
  document.getElementById("o-step").addEventListener("change", filter);
  document.getElementById("o-search").addEventListener("input", filter);
  document.getElementById("o-follow").addEventListener("change", filter);
  // Who scrolls up wants to read; back at the end, it follows again.
  box.addEventListener("scroll", () => {
    document.getElementById("o-follow").checked = box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  });
}

export function startRuns() {
  startOutput();
  document.addEventListener("click", (event) => {
    const asked = event.target.closest?.("button[data-ask]");
    if (asked) order(asked);
    const pick = event.target.closest?.("button[data-pick]");
    if (pick) {
      const steps = document.getElementById("o-step");
      if (![...steps.options].some((one) => one.value === pick.dataset.pick)) steps.add(new Option(pick.dataset.pick));
      steps.value = pick.dataset.pick;
      filter();
      document.getElementById("output-title").scrollIntoView({ block: "start" });
    }
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-confirm]")) return;
    event.preventDefault();
    confirmForm(event.target);
  });
}
