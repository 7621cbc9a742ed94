// Texts in the viewer's language: t("{0} lines", 3). The catalogue stands at the head of the joined script.
const known = globalThis.DOGWATCH_WORDS ?? {};

export function t(text, ...values) {
  return (known[text] ?? text).replace(/\{(\d+)\}/g, (_all, place) => values[Number(place)] ?? "");
}

// A word of a fixed vocabulary (a state); what is none of it stays as it is.
export const word = (text) => known[text] ?? text;

// A failed attempt's reason in words; reasons.py has them.
export const reasonOf = (reason) => known[`reason:${reason}`] ?? reason;

export const locale = document.documentElement.lang === "en" ? undefined : document.documentElement.lang;
