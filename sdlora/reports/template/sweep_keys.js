
"use strict";
// The cells of a sweep over two of its keys, which `Down` and `Across` name.
const sweep = (() => {
  const { one } = shared;
  const data = JSON.parse(one("#sweep-data").textContent);
  const keyNames = data.keys.map((key) => key.name);
  const cells = new Map(data.cells.map((cell) => [cell.number, cell]));
  const winner = cells.get(data.winner);
  const rule = data.scores.find((score) => score.name === data.rule) ?? data.scores[0];
  data.keys.forEach((key) => { key.short = key.name.split(".").at(-1); });
  data.cells.forEach((cell) => { cell.isWinner = cell === winner; });

  // What is shown: indices of keys (-1: none), of their fixed values, of text and step.
  const shown = {
    down: keyNames.indexOf(data.down),
    across: keyNames.indexOf(data.across),
    fixed: data.keys.map((key, at) => winner?.values[at] ?? 0),
  };

  function make(name, properties = {}, children = []) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  const shortName = (cell) => data.keys
    .map((key, at) => [key.short, key.values[cell.values[at]]])
    .filter((pair) => pair[1] !== undefined).map((pair) => pair.join("=")).join(", ");
  const isAxis = (key) => key === shown.down || key === shown.across;

  function cellAt(down, across) {
    const wanted = data.keys.map((key, at) =>
      at === shown.down ? down : at === shown.across ? across : shown.fixed[at]);
    return data.cells.find((cell) => cell.values.every((value, at) => value === wanted[at]));
  }

  // A table over the two keys; `field` makes what stands in it of a cell (or of undefined).
  function overKeys(table, field) {
    const [down, across] = [data.keys[shown.down], data.keys[shown.across]];
    const columns = across ? across.values : [""];
    const corner = make("th", { textContent: down ? `${down.short} ↓` : "" });
    if (across) corner.append(make("br"), `${across.short} →`);
    const heads = columns.map((text) => make("th", { scope: "col", textContent: text }));
    const rows = (down ? down.values : [""]).map((text, row) => make("tr", {}, [
      make("th", { scope: "row", textContent: text }),
      ...columns.map((_, column) => field(cellAt(row, column))),
    ]));
    table.replaceChildren(
      make("thead", {}, [make("tr", {}, [corner, ...heads])]), make("tbody", {}, rows),
    );
  }

  // Whether at least a quarter of the fields over the two keys has a cell: a search has few.
  function isGrid() {
    const [rows, columns] = [shown.down, shown.across].map((at) => data.keys[at]?.values.length ?? 1);
    let filled = 0;
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) filled += cellAt(row, column) ? 1 : 0;
    }
    return filled * 4 >= rows * columns;
  }

  const option = (value, text) => make("option", { value, textContent: text });

  return { data, cells, rule, shown, make, option, isAxis, shortName, overKeys, isGrid };
})();
