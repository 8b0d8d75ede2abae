
"use strict";
// The table of cells: a click on a title sorts, words filter; the base always stays.
(() => {
  const { one, all } = shared;
  const table = one("#cell-table");
  const heads = all("thead th", table);

  function valueOf(row, column) {
    const value = row.children[column].dataset.value;
    if (value === undefined || value === "") return null;
    return Number.isNaN(Number(value)) ? value : Number(value);
  }

  function compared(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  }

  function sort(head, column) {
    const before = head.getAttribute("aria-sort");
    const isFirstDown = before === null && head.dataset.arrow === "↑"; // the best on top
    const isDown = isFirstDown || before === "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    const rows = all("tbody tr", table).map((row) => ({ row, value: valueOf(row, column) }));
    const known = rows.filter(({ value }) => value !== null);
    known.sort((a, b) => compared(a.value, b.value) * (isDown ? -1 : 1));
    const unknown = rows.filter(({ value }) => value === null);
    one("tbody", table).append(...[...known, ...unknown].map(({ row }) => row));
  }

  heads.forEach((head, column) =>
    one("button", head).addEventListener("click", () => sort(head, column)));

  one("#cell-filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("tbody tr[data-cell]", table);
    rows.forEach((row) => {
      const text = row.dataset.text.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    const left = rows.filter((row) => !row.hidden).length;
    one("#cells-found").textContent = words.length ? `${left} of ${rows.length} cells` : "";
  });

  one("#score-group").addEventListener("change", (event) => {
    table.dataset.show = event.target.value;
  });
  one("#minor")?.addEventListener("change", (event) =>
    table.classList.toggle("whole", event.target.checked));
})();
