// The theme button: as the system, light, dark.
const NAMES = { "": "Auto", light: "Light", dark: "Dark" };
const NEXT = { "": "light", light: "dark", dark: "" };

export function startTheme() {
  const button = document.getElementById("theme");
  const said = document.getElementById("theme-text");
  const show = () => {
    said.textContent = NAMES[document.documentElement.dataset.theme || ""];
  };
  button.addEventListener("click", () => {
    const theme = NEXT[document.documentElement.dataset.theme || ""];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    try { localStorage.setItem("dogwatch.theme", theme); } catch { /* may be forbidden */ }
    show();
    document.dispatchEvent(new Event("dogwatch:theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new Event("dogwatch:theme"));
  });
  show();
}
