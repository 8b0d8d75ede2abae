
"use strict";
(() => {
  const { one, all, enlarge, onArrows } = shared;

  const slider = one("#state");
  const rows = all(".prompt").map((article) => ({
    article,
    text: one("h3", article).textContent.toLowerCase(),
    compare: one(".compare", article),
    pictures: all(".strip button", article),
  }));
  const isBase = (button) => "base" in button.dataset;
  const nameOf = (button) => button.dataset.column;
  const columns = slider
    ? JSON.parse(slider.dataset.columns)
    : [...new Set(all(".strip button").filter((button) => !isBase(button)).map(nameOf))];
  let at = columns.length - 1;

  // The picture of the column, else of the nearest one that the row has.
  function nearest(row, index) {
    const distance = (button) => Math.abs(columns.indexOf(nameOf(button)) - index);
    const own = row.pictures.filter((button) => !isBase(button));
    return own.sort((a, b) => distance(a) - distance(b))[0];
  }

  function copyOf(button, kind) {
    const image = one("img", button).cloneNode();
    image.classList.add(kind);
    return image;
  }

  function show(row) {
    const base = row.pictures.find(isBase);
    const lora = nearest(row, at);
    row.pictures.forEach((button) => button.removeAttribute("aria-current"));
    if (lora) {
      lora.setAttribute("aria-current", "true");
      const strip = lora.closest("ol");
      const { offsetLeft, offsetTop } = lora.parentElement;
      strip.scrollTo(offsetLeft - strip.clientWidth / 2, offsetTop - strip.clientHeight / 2);
    }
    const frame = one(".frame", row.compare);
    const shown = [base && copyOf(base, "under"), lora && copyOf(lora, base ? "over" : "under")];
    frame.replaceChildren(...shown.filter(Boolean));
    frame.classList.toggle("single", !(base && lora));
    one(".split", row.compare).hidden = !(base && lora);
    one(".ends", row.compare).hidden = !(base && lora);
    one(".base-name", row.compare).textContent = base ? nameOf(base) : "";
    one(".lora-name", row.compare).textContent = lora ? nameOf(lora) : "";
    row.framed = lora ?? base;
    frame.setAttribute("aria-label", `Enlarge ${nameOf(row.framed)}`);
    row.compare.hidden = false;
  }

  function choose(index) {
    at = Math.min(Math.max(index, 0), columns.length - 1);
    rows.forEach(show);
    if (!slider) return;
    const best = columns[at] === slider.dataset.best ? " ★" : "";
    slider.value = at;
    slider.setAttribute("aria-valuetext", columns[at]);
    one("#state-name").textContent = `${columns[at]}${best}`;
  }

  function view(row, index) {
    const button = row.pictures[index];
    const scores = button.dataset.scores ? ` (${button.dataset.scores})` : "";
    const text = `${nameOf(button)}: ${one("h3", row.article).textContent}${scores}`;
    enlarge(copyOf(button, "one"), text, (by) => turn(row, index + by));
  }

  function turn(row, index) {
    const button = row.pictures[index];
    if (!button) return;
    view(row, index);
    const column = columns.indexOf(nameOf(button));
    if (column >= 0 && !isBase(button)) choose(column);
  }

  rows.forEach((row) => {
    row.pictures.forEach((button, index) =>
      button.addEventListener("click", () => view(row, index)));
    one(".frame", row.compare).addEventListener("click", () =>
      view(row, row.pictures.indexOf(row.framed)));
  });
  if (rows.length) choose(at);
  slider?.addEventListener("input", () => choose(Number(slider.value)));

  all("[data-enlarge]").forEach((button) => button.addEventListener("click", () =>
    enlarge(copyOf(button, button.dataset.enlarge), one("img", button).alt)));

  onArrows((by) => rows.length > 0 && choose(at + by));

  one("#filter")?.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => {
      row.article.hidden = !words.every((word) => row.text.includes(word));
    });
    const left = rows.filter((row) => !row.article.hidden).length;
    one("#found").textContent = words.length ? `${left} of ${rows.length} prompts` : "";
  });

  // Charts: bokeh draws on a canvas, which knows nothing of the page's colours.
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function paint() {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) =>
      style.getPropertyValue(name).trim());
    const colors = {
      axis_label_text_color: soft, major_label_text_color: soft, label_text_color: ink,
      axis_line_color: soft, major_tick_line_color: soft, grid_line_color: line,
    };
    for (const documentOfCharts of Bokeh.documents) {
      for (const model of documentOfCharts._all_models.values()) {
        const known = Object.entries(colors).filter(([name]) => name in model.properties);
        if (known.length) model.setv(Object.fromEntries(known));
      }
    }
  }

  const data = all(".chart-data");
  if (data.length) {
    Promise.all(data.map((script) => Bokeh.embed.embed_item(JSON.parse(script.textContent))))
      .then(() => { paint(); dark.addEventListener("change", paint); });
  }
})();
