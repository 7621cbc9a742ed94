// Runs before the first paint, so that a chosen theme does not flash. The choice: "", "light" or "dark".
(function () {
  let theme = "";
  try { theme = localStorage.getItem("dogwatch.theme") || ""; } catch { /* storage may be forbidden */ }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
