// Users and tokens: forms whose fields go to the API as JSON.
import { csrf, toast } from "./actions.js";

const LISTS = new Set(["roles"]);
const listed = (text) => text.split(/[\s,]+/).filter(Boolean);
const mapped = (text) => Object.fromEntries(listed(text).map((pair) => pair.split("=", 2)));

function valuesOf(form) {
  const values = {};
  for (const [name, text] of new FormData(form)) {
    if (LISTS.has(name)) (values[name] ??= []).push(text);
    else if (name === "days") values.expires_after_s = text ? Number(text) * 86400 : null;
    else if (name === "labels") values.labels = mapped(text);
    else if (form.elements[name]?.dataset?.type === "list") values[name] = listed(text);
    else if (form.elements[name]?.dataset?.type === "map") values[name] = mapped(text);
    else if (["yes", "no"].includes(form.elements[name]?.dataset?.type)) values[name] = form.elements[name].dataset.type === "yes";
    else if (name === "number") values.number = Number(text);
    else values[name] = text;
  }
  for (const list of LISTS) if (form.querySelector(`[name="${list}"]`)) values[list] ??= [];
  return values;
}

async function send(form) {
  if (form.dataset.sure && !window.confirm(form.dataset.sure)) return;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(form.action, {
      method: form.dataset.method || "POST",
      headers: { accept: "application/json", "content-type": "application/json", ...csrf() },
      body: JSON.stringify(valuesOf(form)),
    });
    const text = await answer.text();
    const body = text ? JSON.parse(text) : null;
    if (!answer.ok) throw new Error([body.detail, body.hint].filter(Boolean).join(". "));
    const shown = document.getElementById("secret");
    if (body && body.secret && shown) {
      shown.hidden = false;
      shown.querySelector("code").textContent = body.secret;
      shown.focus();
      form.reset();
    } else if (form.dataset.to) {
      window.location.assign(form.dataset.to + encodeURIComponent(body.plan));
    } else if (body && "ok" in form.dataset) {
      toast(body.broken === null ? form.dataset.ok : body.why, body.broken !== null);
    } else {
      window.location.reload();
    }
  } catch (error) {
    toast(error.message, true);
  } finally {
    button.disabled = false;
  }
}

export function startAccess() {
  for (const input of document.querySelectorAll("input[data-zone]")) input.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("form[data-json]")) return;
    event.preventDefault();
    send(event.target);
  });
}
