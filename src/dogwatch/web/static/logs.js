// Live tail of the logs page: records by server-sent events, the newest above.
import { clock } from "./times.js";
import { t } from "./words.js";
import { plain } from "./plain.js";

const MOST = 500;
const TONES = { error: "bad", fatal: "bad", critical: "bad", warn: "warn", warning: "warn" };
let stream = null;

function part(name, text) {
  const span = document.createElement("span");
  span.className = name;
  span.textContent = text;
  return span;
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function row(record) {
  const { level = "", message = "", ...rest } = record.fields;
  const box = document.createElement("details");
  box.className = `log fresh ${TONES[String(level).toLowerCase()] ?? ""}`;
  const head = document.createElement("summary");
  const text = plain(String(message)) || Object.entries(rest).map(([name, value]) => `${name}=${shown(value)}`).join(" ");
  head.append(part("at", clock(record.time_s)), " ", part("level", level), " ", part("of", record.source), " ");
  head.append(part("text", text));
  const list = document.createElement("dl");
  for (const [name, value] of [...Object.entries(rest), ["file", record.file], ["id", record.id]]) {
    const pair = document.createElement("div");
    const term = document.createElement("dt");
    const given = document.createElement("dd");
    term.textContent = name;
    given.textContent = shown(value);
    pair.append(term, given);
    list.append(pair);
  }
  box.append(head, list);
  return box;
}

function take(records) {
  const list = document.getElementById("l-list");
  if (!list) return;
  document.getElementById("l-none")?.remove();
  list.prepend(...records.reverse().map(row));
  while (list.children.length > MOST) list.lastElementChild.remove();
}

function stop(button) {
  stream?.close();
  stream = null;
  button.setAttribute("aria-pressed", "false");
  button.textContent = t("Live tail");
}

function start(button) {
  const wanted = new URLSearchParams(button.dataset.tail);
  for (const name of ["period", "begin", "until"]) wanted.delete(name);
  stream = new EventSource(`/api/v1/logs/tail?${wanted}`);
  stream.addEventListener("records", (event) => take(JSON.parse(event.data)));
  stream.addEventListener("bye", () => stop(button));
  stream.addEventListener("error", () => stream?.readyState === EventSource.CLOSED && stop(button));
  button.setAttribute("aria-pressed", "true");
  button.textContent = t("Stop the live tail");
}

export function startLogs() {
  const button = document.getElementById("l-tail");
  if (!button) return;
  button.addEventListener("click", () => (stream ? stop(button) : start(button)));
  addEventListener("pagehide", () => stream?.close());
}
