// The theme button (as the system, light, dark) and the choice of language. Cookies, so that the server draws the page
// as it will stay.
import { t } from "./words.js";

const NAMES = { "": t("Auto"), light: t("Light"), dark: t("Dark") };
const NEXT = { "": "light", light: "dark", dark: "" };

const keep = (name, value) => { document.cookie = `dogwatch_${name}=${value}; path=/; max-age=31536000; samesite=lax`; };

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
    keep("theme", theme);
    show();
    document.dispatchEvent(new Event("dogwatch:theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new Event("dogwatch:theme"));
  });
  show();
  document.getElementById("language")?.addEventListener("change", (event) => {
    keep("language", event.target.value);
    location.reload();
  });
}
