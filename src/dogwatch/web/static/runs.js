// The run's page: what the server draws is fetched anew when the run moves; its output arrives by its own stream.
import { refresh, spoke } from "./live.js";
import { toast } from "./actions.js";
import { ask, confirmForm, idempotencyKey, post } from "./ask.js";
import { clock } from "./times.js";
import { t } from "./words.js";
import { plain } from "./plain.js";

const MOST_LINES = 5000;
const AT_ONCE_MS = 400;
const LOGS_AFTER_MS = [1500, 6000];

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
  const before = (fresh.at(-1) ?? box.lastElementChild)?.dataset.step;
  if (before === chunk.step) mark.classList.add("same");
  mark.title = clock(chunk.time_s);
  const body = document.createElement("span");
  body.textContent = plain(text).replace(/\r+$/, "").replace(/^.*\r/, "");
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
  waiting ||= setTimeout(() => { waiting = 0; refresh("run-now"); refresh("run-logs"); }, AT_ONCE_MS);
}

function connect(address) {
  source = new EventSource(`${address}?after=${after}`);
  let first = attempts === 0;
  const open = document.querySelector("#run-head[data-open]");
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
    // What it said last is on its way into the store for a moment.
    if (open) for (const after_ms of LOGS_AFTER_MS) setTimeout(() => refresh("run-logs"), after_ms);
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

function order(button) {
  const known = document.querySelector(`template[data-order="${button.dataset.ask}"]`);
  const run = document.querySelector("[data-run]").dataset.run;
  const { verb, title, asks } = known.dataset;
  const key = idempotencyKey();
  ask({
    title,
    asks,
    harsh: "harsh" in known.dataset,
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

function startOutput() {
  const section = document.querySelector("[data-output]");
  if (!section) return;
  box = document.getElementById("o-lines");
  tell();
  connect(section.dataset.output);
  refresh("run-logs");
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
