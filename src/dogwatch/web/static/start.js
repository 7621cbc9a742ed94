// The form of a job's parameters: shows the plan first, then starts the run.
import { idempotencyKey, post } from "./ask.js";
import { t } from "./words.js";

function value(input) {
  const text = input.value;
  const type = input.dataset.type;
  if (type === "string") return text;
  if (!text.trim()) return undefined;
  try { return JSON.parse(text); } catch { return text; } // the server says what is wrong with it
}

// What is empty is left out, so that the default counts; text that has no default may be meant to be empty.
function parameters(form) {
  const found = {};
  for (const input of form.querySelectorAll("[data-type]")) {
    const one = value(input);
    if (one === undefined || (one === "" && input.value === input.defaultValue)) continue;
    found[input.name] = one;
  }
  return found;
}

function stepItem(step) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = step.name;
  item.append(name, ` ${step.runs === false ? t("not: its condition is false") : step.summary}`);
  if (step.destructive) item.className = "destructive";
  const notes = [...step.details, step.why, step.always && t("Whatever became of the steps before it"), step.undo && t("To undo: {0}", step.undo), step.problem && t("It would fail: {0}", step.problem)].filter(Boolean);
  for (const text of notes) {
    const note = document.createElement("p");
    note.className = "muted";
    note.textContent = text;
    item.append(note);
  }
  return item;
}

export function startStart() {
  const form = document.querySelector("form.start");
  if (!form) return;
  const plan = document.querySelector(".plan");
  const mistake = form.querySelector(".mistake");
  let key = "";
  let given = {};
  const complain = (text) => { mistake.textContent = text; mistake.hidden = !text; };
  const back = () => { plan.hidden = true; form.hidden = false; };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    complain("");
    try {
      given = parameters(form);
      const found = await post(form.dataset.plan, { parameters: given });
      plan.querySelector(".plan-steps").replaceChildren(...found.steps.map(stepItem));
      plan.querySelector(".plan-locks").textContent = [found.concurrency && t("One at a time: {0}", found.concurrency), found.locks.length && t("Locks: {0}", found.locks.join(", "))].filter(Boolean).join(". ");
      key = idempotencyKey();
      form.hidden = true;
      plan.hidden = false;
      plan.querySelector("h3").focus();
    } catch (error) {
      complain(error.message);
    }
  });
  plan.querySelector("[data-back]").addEventListener("click", back);
  plan.querySelector("[data-go]").addEventListener("click", async (event) => {
    event.target.disabled = true;
    try {
      const reason = form.querySelector("[data-reason]").value;
      const run = await post(form.dataset.start, { parameters: given, reason }, key);
      location.assign(`/runs/${encodeURIComponent(run.run_id)}`);
    } catch (error) {
      back();
      complain(error.message);
    } finally {
      event.target.disabled = false;
    }
  });
}
