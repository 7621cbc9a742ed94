// What a form says, as the API takes it: lists, maps, numbers and flags by the names and types of its fields.
const LISTS = new Set(["roles"]);
const listed = (text) => text.split(/[\s,]+/).filter(Boolean);
const mapped = (text) => Object.fromEntries(listed(text).map((pair) => pair.split("=", 2)));

export function valuesOf(form) {
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
