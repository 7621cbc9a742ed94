// The backtest of the rules in force: asked for by hand, shown as a list.
import { csrf } from "./actions.js";
import { clock, span } from "./times.js";
import { t, word } from "./words.js";

const PERIODS_S = { "1h": 3600, "24h": 86_400, "7d": 604_800, "30d": 2_592_000 };

function paragraph(text) {
  const one = document.createElement("p");
  one.textContent = text;
  return one;
}

function item(incident) {
  const one = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = incident.root;
  const ended = incident.ended_s === null ? t("not over at the end") : span(Date.now() / 1000 - (incident.ended_s - incident.began_s));
  one.append(name, ` ${word(incident.severity)} · ${clock(incident.began_s)} · ${ended}`, paragraph(incident.summary));
  return one;
}

async function look(form) {
  const shown = form.parentElement.querySelector(".found");
  const button = form.querySelector("button");
  button.disabled = true;
  shown.replaceChildren(paragraph(t("Looking through what was recorded…")));
  try {
    const answer = await fetch(form.dataset.backtest, {
      method: "POST",
      headers: { accept: "application/json", "content-type": "application/json", ...csrf() },
      body: JSON.stringify({ since_s: PERIODS_S[form.querySelector("select").value] }),
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error([body.detail, body.hint].filter(Boolean).join(". "));
    const list = document.createElement("ol");
    list.className = "timeline";
    list.append(...body.incidents.slice().reverse().slice(0, 100).map(item));
    const summary = t("{0} incidents, {1} notices; {2} alerts told of only as a part of another. {3} signals looked at.", body.incidents.length, body.notices.length, body.suppressed, body.signals);
    shown.replaceChildren(paragraph(summary), list);
  } catch (error) {
    shown.replaceChildren(paragraph(error.message));
  } finally {
    button.disabled = false;
  }
}

// What was seen before an action is fetched when somebody opens it.
async function showEvidence(details) {
  const shown = details.querySelector("code");
  if (details.dataset.shown) return;
  details.dataset.shown = "yes";
  const answer = await fetch(details.dataset.evidence, { headers: { accept: "application/json" } }).catch(() => null);
  const body = answer ? await answer.json() : null;
  shown.textContent = body ? body.text ?? body.detail : t("Dogwatch does not answer");
}

export function startIncidents() {
  document.addEventListener("toggle", (event) => {
    if (event.target.matches?.("details[data-evidence][open]")) showEvidence(event.target);
  }, true);
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-backtest]")) return;
    event.preventDefault();
    look(event.target);
  });
}
