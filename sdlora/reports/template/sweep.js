
"use strict";
// The maps and plots of a sweep, the keys that they are over, and the cell that lights up.
(() => {
  const { one, all } = shared;
  const { data, cells, rule, shown, make, option, isAxis, overKeys, isGrid } = sweep;

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
    pictures.show();
    draws.forEach((how, plot) => draw(plot));
  }

  function setUpAxes() {
    const named = data.keys.map((key, at) => option(at, key.name));
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
  pictures.setUp();
  setUpPlots();
  showAll();
})();
