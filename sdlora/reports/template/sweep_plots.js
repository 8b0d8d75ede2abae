
"use strict";
// Plots of a sweep as SVG: curves, trade-off, parallel coordinates.
const plots = (() => {
  const MARGIN = { left: 52, right: 14, top: 12, bottom: 34 };
  const HEIGHT = 250;

  function element(name, attributes = {}, children = []) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  const scale = ([low, high], [start, end]) => (value) =>
    start + ((value - low) / (high - low)) * (end - start);

  // Low and high of the values with room around them.
  function extent(values, room = 0.06) {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const margin = (high - low || Math.abs(high) || 1) * room;
    return [low - margin, high + margin];
  }

  // Round numbers inside the range, and as many digits as they need.
  function ticks([low, high], count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let at = Math.ceil(low / step); at * step <= high; at += 1) found.push(at * step);
    return found.map((value) => ({ value, text: value.toFixed(digits) }));
  }

  const text = (content, attributes) => element("text", attributes, [content]);

  // An empty plot with its axes: `x` and `y` turn numbers into places.
  function axes(width, xRange, yRange, xLabel, yLabel) {
    const x = scale(xRange, [MARGIN.left, width - MARGIN.right]);
    const y = scale(yRange, [HEIGHT - MARGIN.bottom, MARGIN.top]);
    const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img" });
    for (const { value, text: shown } of ticks(yRange, 4)) {
      svg.append(element("line", {
        class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value),
      }));
      svg.append(text(shown, { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }));
    }
    for (const { value, text: shown } of ticks(xRange, Math.min(6, width / 80))) {
      svg.append(text(shown, { x: x(value), y: HEIGHT - 18, "text-anchor": "middle" }));
    }
    svg.append(text(xLabel, { x: width - MARGIN.right, y: HEIGHT - 3, "text-anchor": "end" }));
    svg.setAttribute("aria-label", `${yLabel} by ${xLabel}`);
    return { svg, x, y };
  }

  const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x},${y}`).join("");

  function series(cell, children, title) {
    const kind = cell.isWinner ? "series winner" : "series";
    return element("g", { class: kind, "data-cell": cell.number, "data-tip": title }, children);
  }

  // A line for each cell; `base` is a number or undefined.
  function curves(width, cells, score, base) {
    const shown = cells.filter((cell) => cell.curves[score.name]);
    const points = shown.flatMap((cell) => cell.curves[score.name]);
    const values = points.map((point) => point[1]).concat(base ?? []);
    const steps = points.map((point) => point[0]);
    const { svg, x, y } = axes(
      width, extent(steps.length > 1 ? steps : [0, ...steps], 0.03), extent(values), "step", score.title,
    );
    if (base !== undefined) {
      svg.append(element("line", {
        class: "base-line", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(base), y2: y(base),
      }));
    }
    for (const cell of shown) {
      const places = cell.curves[score.name].map(([step, value]) => [x(step), y(value)]);
      const last = cell.curves[score.name].at(-1);
      const dots = places.length > 30 ? [] : places.map(([cx, cy]) =>
        element("circle", { cx, cy, r: 2.6, fill: cell.color }));
      svg.append(series(cell, [
        element("path", { class: "touch", d: path(places) }),
        element("path", { class: "line", d: path(places), stroke: cell.color }),
        ...dots,
      ], `${score.title} ${last[1].toFixed(score.digits)} at step ${last[0]}`));
    }
    return svg;
  }

  // A dot for each cell, a square for the base, and the line of those that no other beats.
  function scatter(width, cells, base, xScore, yScore, front) {
    const placed = cells.filter((cell) => xScore.name in cell.best && yScore.name in cell.best);
    const hasBase = xScore.name in base && yScore.name in base;
    const all = placed.map((cell) => cell.best).concat(hasBase ? base : []);
    const { svg, x, y } = axes(
      width, extent(all.map((each) => each[xScore.name]), 0.1),
      extent(all.map((each) => each[yScore.name]), 0.1), xScore.title, yScore.title,
    );
    const at = (scores) => [x(scores[xScore.name]), y(scores[yScore.name])];
    const line = front.map((number) => at(placed.find((cell) => cell.number === number).best));
    svg.append(element("path", { class: "front", d: path(line) }));
    if (hasBase) {
      const [bx, by] = at(base);
      svg.append(element("rect", { x: bx - 5, y: by - 5, width: 10, height: 10, fill: "var(--soft)" }));
      svg.append(text("base", { x: bx + 9, y: by + 4 }));
    }
    const r = placed.length > 40 ? 4 : 6;
    for (const cell of placed) {
      const [cx, cy] = at(cell.best);
      const ring = cell.isWinner
        ? [element("circle", { cx, cy, r: 10, fill: "none", stroke: cell.color, "stroke-width": 2 })]
        : [];
      const title = [xScore, yScore]
        .map((score) => `${score.title} ${cell.best[score.name].toFixed(score.digits)}`).join(", ");
      svg.append(series(cell, [...ring, element("circle", { cx, cy, r, fill: cell.color })], title));
    }
    return svg;
  }

  // Every swept key and some scores as upright axes; better scores are further up.
  function parallel(width, cells, keys, scores) {
    const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img" });
    svg.setAttribute("aria-label", "All keys and scores of the cells");
    const placed = cells.filter((cell) => cell.values.every((value) => value !== null)
      && scores.every((score) => score.name in cell.best));
    const places = [
      ...keys.map((key, at) => {
        const y = scale([-0.5, key.values.length - 0.5], [HEIGHT - MARGIN.bottom, MARGIN.top + 12]);
        const every = Math.ceil(key.values.length / 8);
        const marks = key.values.map((shown, i) => [y(i), shown]).filter((_, i) => i % every === 0);
        return { title: key.short, marks, of: (cell) => y(cell.values[at]) };
      }),
      ...scores.map((score) => {
        const [low, high] = extent(placed.map((cell) => cell.best[score.name]));
        const ends = score.arrow === "↓" ? [high, low] : [low, high];
        const y = scale(ends, [HEIGHT - MARGIN.bottom, MARGIN.top + 12]);
        const marks = ends.map((value) => [y(value), value.toFixed(score.digits)]);
        return { title: `${score.title} ${score.arrow}`, marks, of: (cell) => y(cell.best[score.name]) };
      }),
    ];
    const x = scale([0, places.length - 1], [30, width - 62]);
    const lines = placed.map((cell) => {
      const d = path(places.map((place, at) => [x(at), place.of(cell)]));
      return series(cell, [
        element("path", { class: "touch", d }),
        element("path", { class: "line", d, stroke: cell.color }),
      ], "");
    });
    places.forEach((place, at) => {
      svg.append(element("line", {
        class: "rule", x1: x(at), x2: x(at), y1: MARGIN.top + 12, y2: HEIGHT - MARGIN.bottom,
      }));
      const y = HEIGHT - (at % 2 ? 4 : 18); // two lines, so that long names do not meet
      svg.append(text(place.title, { x: x(at), y, "text-anchor": "middle" }));
    });
    svg.append(...lines);
    places.forEach((place, at) => {
      for (const [y, shown] of place.marks) svg.append(text(shown, { x: x(at) + 5, y: y + 4 }));
    });
    return svg;
  }

  return { curves, scatter, parallel };
})();
