// Pause, resume, run: forms that post to the API and say how it went.
import { refresh } from "./live.js";
import { duration } from "./times.js";
import { reasonOf, t } from "./words.js";

export function toast(text, bad = false) {
  const box = document.getElementById("toasts");
  const note = document.createElement("p");
  note.className = bad ? "toast bad" : "toast";
  note.textContent = text;
  box.replaceChildren(note);
  setTimeout(() => note.remove(), 6000);
}

// What proves that a change comes from our own page.
export function csrf() {
  const token = document.querySelector('meta[name="csrf"]');
  return token ? { "x-csrf-token": token.content } : {};
}

// Of pause and resume only one can be asked for.
export function toggled(body) {
  for (const other of document.querySelectorAll("form[data-if]")) {
    other.hidden = (other.dataset.if === "paused") !== (body.status === "paused");
  }
}

async function act(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(form.action, { method: "POST", headers: { accept: "application/json", ...csrf() } });
    const body = await answer.json();
    if (!answer.ok) throw new Error([body.detail, body.hint].filter(Boolean).join(". "));
    if ("success" in body) {
      toast(body.success ? t("Passed in {0}", duration(body.duration_s)) : t("Failed: {0} in {1}", body.message || reasonOf(body.reason), duration(body.duration_s)), !body.success);
    } else {
      toast(form.dataset.action);
      toggled(body);
    }
    refresh("target-now");
  } catch (error) {
    toast(error.message, true);
  } finally {
    button.disabled = false;
  }
}

export function startActions() {
  document.addEventListener("htmx:config:request", (event) => {
    const headers = event.detail?.ctx?.request?.headers;
    if (headers) Object.assign(headers, csrf());
  });
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-action]")) return;
    event.preventDefault();
    act(event.target);
  });
}
