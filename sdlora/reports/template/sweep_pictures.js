
"use strict";
// The pictures of a sweep: over two keys, two side by side, enlarged.
const pictures = (() => {
  const { one, enlarge, onArrows } = shared;
  const { data, cells, rule, shown, make, option, shortName, overKeys, isGrid } = sweep;
  const texts = [...new Set(data.prompts.map((prompt) => prompt.text))];
  const seeds = [...new Set(data.prompts.map((prompt) => prompt.seed))];
  const hasPictures = one("#grid") !== null;

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

  function setUpPictures() {
    if (!hasPictures) return;
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

  return { show: showPictures, setUp: setUpPictures };
})();
