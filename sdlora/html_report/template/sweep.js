
"use strict";
// Pictures, maps and plots of a sweep; all of them show the two keys that `Down` and `Across` name.
(() => {
  const { one, all, enlarge, onArrows } = shared;
  const data = JSON.parse(one("#sweep-data").textContent);
  const texts = [...new Set(data.prompts.map((prompt) => prompt.text))];
  const seeds = [...new Set(data.prompts.map((prompt) => prompt.seed))];
  const keyNames = data.keys.map((key) => key.name);
  const cells = new Map(data.cells.map((cell) => [cell.number, cell]));
  const winner = cells.get(data.winner);
  const rule = data.scores.find((score) => score.name === data.rule) ?? data.scores[0];
  const hasPictures = one("#grid") !== null;
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

  // The cell's picture of the prompt at the step, else at the nearest step that it has.
  function pictureOf(holder, step) {
    const prompt = data.prompts.findIndex((each) => each.text === texts[Number(one("#prompt").value)]
      && String(each.seed) === one("#seed").value);
    const found = holder?.pictures[prompt] ?? [];
    return [...found].sort((a, b) => Math.abs(a.step - step) - Math.abs(b.step - step))[0];
  }

  const currentStep = () => data.steps[Number(one("#step").value)] ?? 0;
  const stepText = (cell, step) => `step ${step}${cell.bestStep === step ? " ★" : ""}`;

  function scoreAt(cell, step) {
    const point = rule && cell.curves[rule.name]?.find((each) => each[0] === step);
    return point ? `${rule.title} ${point[1].toFixed(rule.digits)}` : null;
  }

  function imageOf(picture, alt, kind = "") {
    const image = make("img", { src: picture.uri, alt, className: kind });
    const settle = () => image.classList.toggle("pixels", image.naturalWidth <= 128);
    image.addEventListener("load", settle);
    return image;
  }

  function tile(cell) {
    const picture = cell && pictureOf(cell, currentStep());
    if (!picture) {
      const why = !cell ? "no such cell" : cell.state === "done" ? "no picture" : cell.state;
      const said = cell?.reason ? `${why}: ${cell.reason}` : why;
      const blank = make("div", { className: "blank", textContent: said, title: said });
      return make("div", { className: "tile" }, [blank]);
    }
    const numbers = [stepText(cell, picture.step), scoreAt(cell, picture.step)].filter(Boolean);
    const button = make("button", { type: "button", className: "tile" }, [
      imageOf(picture, `cell ${cell.number}: ${cell.name}, step ${picture.step}`),
      make("span", { className: "under" }, numbers.map((text) => make("span", { textContent: text }))),
    ]);
    button.classList.toggle("winner", cell.isWinner);
    button.dataset.cell = cell.number;
    button.addEventListener("click", () => view(cell));
    return button;
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

  // All cells one after the other, the best first.
  function list(table) {
    const cost = (cell) => rule && rule.name in cell.best
      ? cell.best[rule.name] * (rule.arrow === "↓" ? 1 : -1) : Infinity;
    const tiles = [...data.cells].sort((a, b) => cost(a) - cost(b) || a.number - b.number).map((cell) => {
      const made = tile(cell);
      made.append(make("span", { className: "named", textContent: `${cell.number}: ${shortName(cell)}` }));
      return made;
    });
    const field = make("td", {}, [make("div", { className: "listed" }, tiles)]);
    table.replaceChildren(make("tbody", {}, [make("tr", {}, [field])]));
  }

  function view(cell) {
    const picture = pictureOf(cell, currentStep());
    const href = picture.file.split("/").map(encodeURIComponent).join("/");
    const link = make("a", { href, textContent: "whole picture", target: "_blank", rel: "noopener" });
    const text = cell === data.base ? "base" : `cell ${cell.number} (${cell.name}), ${stepText(cell, picture.step)}`;
    const score = cell === data.base ? null : scoreAt(cell, picture.step);
    enlarge(imageOf(picture, text, "one"), [`${text}${score ? `, ${score}` : ""}; `, link], (by) => {
      moveStep(by);
      view(cell);
    });
  }

  function moveStep(by) {
    const slider = one("#step");
    slider.value = Number(slider.value) + by;
    showPictures();
  }

  // Two cells, or a cell and the base, one over the other.
  function showPair() {
    const sides = ["#left", "#right"].map((id) => one(id).value);
    const holders = sides.map((value) => value === "base" ? data.base : cells.get(Number(value)));
    const pictures = holders.map((holder) => pictureOf(holder, currentStep()));
    const frame = one(".frame");
    const names = sides.map((value) => value === "base" ? "base" : `cell ${value}`);
    const images = pictures.map((picture, at) =>
      picture ? imageOf(picture, names[at], at ? "over" : "under") : null);
    frame.replaceChildren(...images.filter(Boolean));
    frame.classList.toggle("single", images.includes(null));
    frame.setAttribute("aria-label", `Enlarge ${names[1]}`);
    frame.onclick = () => { if (pictures[1]) view(holders[1]); };
    one(".base-name").textContent = names[0];
    one(".lora-name").textContent = names[1];
  }

  function showPictures() {
    if (!hasPictures) return;
    const [text, step] = [one("#prompt"), one("#step")];
    one("#step-name").textContent = `${currentStep()}`;
    step.setAttribute("aria-valuetext", `step ${currentStep()}`);
    text.setAttribute("aria-valuetext", texts[Number(text.value)]);
    one("#prompt-text").textContent = texts[Number(text.value)];
    const columns = isGrid() ? data.keys[shown.across]?.values.length ?? 1 : 5;
    const room = (one(".scroll.grid").clientWidth - 90) / columns - 8;
    one("#grid").style.setProperty("--tile", `${Math.max(84, Math.min(200, room))}px`);
    if (isGrid()) overKeys(one("#grid"), (cell) => make("td", {}, [tile(cell)]));
    else list(one("#grid"));
    showPair();
  }

  // The different values that the cells have of a score.
  const values = (score) => [...new Set(data.cells.map((cell) => cell.best[score.name]))]
    .filter((value) => value !== undefined);

  // How good a value is among all cells: 0 the worst, 1 the best.
  function goodness(score, value) {
    const [low, high] = [Math.min(...values(score)), Math.max(...values(score))];
    return score.arrow === "↓" ? (high - value) / (high - low) : (value - low) / (high - low);
  }

  function heatMap(score) {
    const table = make("table");
    overKeys(table, (cell) => {
      const value = cell?.best[score.name];
      const field = make("td", { textContent: value === undefined ? "–" : value.toFixed(score.digits) });
      if (value === undefined) return field;
      const good = goodness(score, value);
      field.style.background = `color-mix(in srgb, var(--accent) ${Math.round(4 + 44 * good)}%, var(--card))`;
      field.classList.toggle("best-value", good === 1);
      field.dataset.cell = cell.number;
      return field;
    });
    return make("figure", {}, [
      make("figcaption", { textContent: `${score.title} ${score.arrow}` }),
      make("div", { className: "over-keys scroll" }, [table]),
    ]);
  }

  function color() {
    const values = data.keys[shown.down]?.values ?? [];
    data.cells.forEach((cell) => {
      const at = cell.values[shown.down];
      cell.color = values.length > data.colors.length || at === undefined || at === null
        ? data.colors[0] : data.colors[at];
    });
    const key = data.keys[shown.down];
    const legend = !key || values.length > data.colors.length ? [] : values.map((text, at) => {
      const mark = make("i");
      mark.style.background = data.colors[at];
      return make("span", {}, [mark, `${key.short} ${text}`]);
    });
    all(".legend").forEach((each) => each.replaceChildren(...legend.map((one) => one.cloneNode(true))));
  }

  // Plots are drawn as wide as they are shown, when they are.
  const draws = new Map();
  const watched = new ResizeObserver((entries) => entries.forEach(({ target }) => draw(target)));

  function draw(plot) {
    if (plot.clientWidth) plot.replaceChildren(draws.get(plot)(plot.clientWidth));
  }

  function plotted(plot, how) {
    draws.set(plot, how);
    watched.observe(plot);
  }

  function setUpPlots() {
    const first = new Set([rule?.name, data.tradeOff?.x, data.tradeOff?.y]);
    for (const score of data.scores) {
      if (!data.cells.some((cell) => cell.curves[score.name])) continue;
      const where = one(`[data-curves="${first.has(score.name) ? "first" : "others"}"]`) ?? one("[data-curves]");
      const plot = make("div", { className: "plot" });
      where.append(make("figure", {}, [
        make("figcaption", { textContent: `${score.title} ${score.arrow}` }), plot]));
      plotted(plot, (width) => plots.curves(width, data.cells, score, data.base.scores[score.name]));
    }
    const score = (name) => data.scores.find((each) => each.name === name);
    const scatter = one("#scatter");
    if (scatter) {
      const [x, y] = [score(data.tradeOff.x), score(data.tradeOff.y)];
      one("figcaption", scatter).textContent = `${y.title} ${y.arrow} against ${x.title} ${x.arrow}`;
      plotted(one(".plot", scatter), (width) =>
        plots.scatter(width, data.cells, data.base.scores, x, y, data.tradeOff.front));
    }
    const parallel = one("#parallel");
    if (parallel) {
      const scores = [...first].filter(Boolean).map(score);
      plotted(one(".plot", parallel), (width) => plots.parallel(width, data.cells, data.keys, scores));
    }
  }

  function showAll() {
    color();
    all("#fixed label").forEach((label, at) => { label.hidden = isAxis(at) || data.keys[at].values.length < 2; });
    const mapped = isGrid() ? data.scores.filter((score) => values(score).length > 1) : [];
    one("#heat").replaceChildren(...mapped.map(heatMap));
    one("#no-maps").hidden = isGrid();
    showPictures();
    draws.forEach((how, plot) => draw(plot));
  }

  const option = (value, text) => make("option", { value, textContent: text });

  function setUpAxes() {
    const named = keyNames.map((name, at) => option(at, name));
    one("#down").append(...named.map((each) => each.cloneNode(true)));
    one("#across").append(option(-1, "–"), ...named);
    for (const [axis, other] of [["down", "across"], ["across", "down"]]) {
      const select = one(`#${axis}`);
      select.value = shown[axis];
      select.addEventListener("change", () => {
        if (Number(select.value) === shown[other]) { // the two keys change places
          shown[other] = axis === "across" && shown.across < 0 ? -1 : shown[axis];
          one(`#${other}`).value = shown[other];
        }
        shown[axis] = Number(select.value);
        showAll();
      });
    }
    data.keys.forEach((key, at) => {
      const select = make("select", {}, key.values.map((text, value) => option(value, text)));
      select.value = shown.fixed[at];
      select.addEventListener("change", () => { shown.fixed[at] = Number(select.value); showAll(); });
      one("#fixed").append(make("label", {}, [`${key.name} `, select]));
    });
    one("#axes").hidden = data.keys.length < 2;
  }

  function setUpPictures() {
    one("#prompt").max = texts.length - 1;
    one("#seed").append(...seeds.map((seed) => option(seed, seed)));
    one("#seed-label").hidden = seeds.length < 2;
    const holders = data.cells.filter((cell) => Object.keys(cell.pictures).length);
    const options = holders.map((cell) => option(cell.number, `${cell.number}: ${shortName(cell)}`));
    if (Object.keys(data.base.pictures).length) options.unshift(option("base", "base"));
    for (const id of ["#left", "#right"]) one(id).append(...options.map((each) => each.cloneNode(true)));
    one("#left").value = data.runnerUp ?? options[0].value;
    one("#right").value = data.winner ?? options.at(-1).value;
    for (const id of ["#left", "#right"]) one(id).addEventListener("change", showPair);
    for (const id of ["#prompt", "#seed", "#step"]) one(id).addEventListener("input", showPictures);
    new ResizeObserver(showPictures).observe(one(".scroll.grid"));
    onArrows(moveStep);
  }

  // A cell that is pointed at, or has the focus, lights up everywhere.
  function light(target, place) {
    const number = target?.closest?.("[data-cell]")?.dataset.cell;
    all(".lit").forEach((each) => each.classList.remove("lit"));
    document.body.classList.toggle("lighting", number !== undefined);
    const tip = one("#tip");
    const series = target?.closest?.(".series");
    tip.hidden = !series;
    if (number === undefined) return;
    all(`[data-cell="${number}"]`).forEach((each) => each.classList.add("lit"));
    if (!series) return;
    const cell = cells.get(Number(number));
    tip.textContent = [`cell ${number}: ${cell.name}`, series.dataset.tip].filter(Boolean).join(": ");
    const x = Math.min(place.clientX + 14, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(8, x)}px`;
    tip.style.top = `${place.clientY + 16}px`;
  }

  document.addEventListener("pointerover", (event) => light(event.target, event));
  document.addEventListener("focusin", (event) => light(event.target, event));

  function sayWhatIsTheSame() {
    const same = data.scores.filter((score) => values(score).length === 1)
      .map((score) => `${score.title} ${values(score)[0].toFixed(score.digits)}`);
    if (same.length) one("#same-everywhere").textContent = ` The same in all cells: ${same.join(", ")}.`;
  }

  setUpAxes();
  sayWhatIsTheSame();
  if (hasPictures) setUpPictures();
  setUpPlots();
  showAll();
})();
