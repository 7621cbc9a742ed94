// Small things that all charts need: colours of the theme, sizes.
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function size(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${Number(value.toPrecision(3))} ${units[at]}`;
}
