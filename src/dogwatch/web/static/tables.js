// On phones a row of a list is an entry: its figures say what they are by the head of their column.
function label(root = document) {
  for (const table of root.querySelectorAll("table.list")) {
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])].map((one) => (one.classList.contains("n") || one.dataset.named !== undefined ? one.textContent : ""));
    for (const row of table.tBodies[0]?.rows ?? []) {
      for (const cell of row.cells) {
        const text = heads[cell.cellIndex];
        if (text && cell.dataset.th !== text) cell.dataset.th = text;
      }
    }
  }
}

export function startTables() {
  label();
  document.addEventListener("dogwatch:fresh", () => label());
  document.addEventListener("htmx:after:swap", () => label());
}
