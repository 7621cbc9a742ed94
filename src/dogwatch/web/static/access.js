// Users and tokens: forms whose fields go to the API as JSON.
import { csrf, toast } from "./actions.js";
import { valuesOf } from "./fields.js";

async function send(form) {
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
    if (!event.target.matches("form[data-json]:not([data-confirm])")) return;
    event.preventDefault();
    send(event.target);
  });
}
