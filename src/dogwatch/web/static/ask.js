// Every change asks first, and says what it will do: a dialog with the plan, and a way out.
import { csrf, toast, toggled } from "./actions.js";
import { valuesOf } from "./fields.js";
import { refresh } from "./live.js";
import { showTimes } from "./times.js";
import { t } from "./words.js";

// What a change will do is shown first; nothing happens before somebody agrees.
export function ask({ title, effects, asks, go, harsh = false }) {
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
  yes.className = harsh ? "primary danger" : "primary";
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
  showTimes(dialog);
  dialog.showModal();
  (input ?? yes).focus();
}

export function idempotencyKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

export async function post(address, body, key, method = "POST") {
  const headers = { accept: "application/json", "content-type": "application/json", ...csrf() };
  if (key) headers["idempotency-key"] = key;
  const answer = await fetch(address, { method, headers, body: JSON.stringify(body) });
  const text = await answer.text();
  const found = text ? JSON.parse(text) : {};
  if (!answer.ok) throw new Error([found.detail, found.hint].filter(Boolean).join(". "));
  return found;
}

function paragraphs(text) {
  return text.split("\n").filter(Boolean).map((line) => {
    const one = document.createElement("p");
    one.textContent = line;
    return one;
  });
}

// Raises: Error with what the server said.
async function planned(form) {
  const query = "fields" in form.dataset ? `?${new URLSearchParams(new FormData(form))}` : "";
  const answer = await fetch(form.dataset.plan + query, { headers: { accept: "text/html" } }).catch(() => null);
  if (!answer) throw new Error(t("Dogwatch does not answer"));
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok) throw new Error(parsed.querySelector("main p")?.textContent ?? t("What it would do cannot be shown now"));
  return [...parsed.body.children].map((one) => document.adoptNode(one));
}

// A form says what it does: data-effect, a fragment at data-plan (asked with what is in the form, for data-fields), what to
// ask for (data-asks, into data-field of the body), which part of the page to draw anew (data-fresh), or where what it
// made is (data-leads). data-harsh: what it does cannot be taken back easily.
export async function confirmForm(form) {
  const { confirm: title, plan, asks, field, fresh, leads, from } = form.dataset;
  const key = "keyed" in form.dataset ? { key: idempotencyKey() } : {};
  let effects = paragraphs(form.dataset.effect ?? "");
  try {
    if (plan) effects = [...effects, ...(await planned(form))];
  } catch (error) {
    toast(error.message, true);
    return;
  }
  ask({
    title,
    asks,
    effects,
    harsh: "harsh" in form.dataset,
    go: async (text) => {
      const body = { ...valuesOf(form), ...key, ...(field && text ? { [field]: text } : {}) };
      const found = await post(form.getAttribute("action"), body, "", form.dataset.method);
      if (leads) { location.assign(leads + encodeURIComponent(found[from])); return; }
      if ("reload" in form.dataset) { location.reload(); return; }
      toast(t("{0}: done", title));
      if ("if" in form.dataset) toggled(found);
      refresh(fresh ?? "workers-now");
    },
  });
}
