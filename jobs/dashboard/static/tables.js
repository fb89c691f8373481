// Tables are sorted by buttons in their heads: once down, again up, a third time as the server has them.

const chosen = new Map();
const NEXT = { none: "descending", descending: "ascending", ascending: "none" };

export function makeSortable(root, resorted) {
  tablesOf(root).forEach((table, n) => {
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      if (chosen.get(n)?.column === column) head.setAttribute("aria-sort", chosen.get(n).order);
      button.addEventListener("click", () => {
        const order = NEXT[head.getAttribute("aria-sort") ?? "none"];
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (order === "none") chosen.delete(n);
        else {
          chosen.set(n, { column, order });
          head.setAttribute("aria-sort", order);
          sort(table, chosen.get(n));
        }
        resorted();
      });
    }
  });
}

// As it was chosen here, for a table that came from the server.
export function sortAgain(root) {
  tablesOf(root).forEach((table, n) => chosen.has(n) && sort(table, chosen.get(n)));
}

const tablesOf = (root) => [...root.querySelectorAll("table[data-sortable]")];

function sort(table, { column, order }) {
  const way = order === "ascending" ? 1 : -1;
  const values = new Map([...table.tBodies[0].rows].map((row) => [row, valueOf(row.cells[column])]));
  const rows = [...values.keys()].sort((a, b) => way * compared(values.get(a), values.get(b)));
  table.tBodies[0].append(...rows);
}

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim().replaceAll(",", "");
  return text !== "" && !Number.isNaN(Number.parseFloat(text)) && !text.includes("T") ? Number.parseFloat(text) : text;
}

function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}
