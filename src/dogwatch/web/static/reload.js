// A page without a live stream (the public one) is loaded again now and then, but never under somebody's hands.
export function startReload() {
  const every = Number(document.querySelector("[data-reload]")?.dataset.reload ?? 0);
  if (!every) return;
  const busy = () => document.hidden || document.activeElement?.matches("input, select, textarea") || [...document.querySelectorAll("main input:not([type=hidden])")].some((one) => one.value);
  setInterval(() => { if (!busy()) location.reload(); }, every * 1000);
}
