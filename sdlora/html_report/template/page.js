
"use strict";
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

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

  // Enlarged: one picture of a row, or another picture of the page as it is.
  const viewer = one("#viewer");
  let viewed = null;

  function view(row, button) {
    viewed = { row, index: row.pictures.indexOf(button) };
    const image = copyOf(button, "one");
    const scores = button.dataset.scores ? ` (${button.dataset.scores})` : "";
    open(image, `${nameOf(button)}: ${one("h3", row.article).textContent}${scores}`, true);
  }

  function open(image, text, isOfRow) {
    one(".stage", viewer).replaceChildren(image);
    one("p", viewer).textContent = text;
    one("#previous").hidden = one("#next").hidden = !isOfRow;
    if (!viewer.open) viewer.showModal();
  }

  function turn(by) {
    const button = viewed && viewed.row.pictures[viewed.index + by];
    if (!button) return;
    view(viewed.row, button);
    const index = columns.indexOf(nameOf(button));
    if (index >= 0 && !isBase(button)) choose(index);
  }

  rows.forEach((row) => {
    row.pictures.forEach((button) => button.addEventListener("click", () => view(row, button)));
    one(".frame", row.compare).addEventListener("click", () => view(row, row.framed));
    one(".split", row.compare).addEventListener("input", (event) =>
      row.compare.style.setProperty("--split", `${event.target.value}%`));
  });
  if (rows.length) choose(at);
  slider?.addEventListener("input", () => choose(Number(slider.value)));

  all("[data-enlarge]").forEach((button) => button.addEventListener("click", () => {
    viewed = null;
    const image = one("img", button);
    open(copyOf(button, button.dataset.enlarge), image.alt, false);
  }));
  one("#previous").addEventListener("click", () => turn(-1));
  one("#next").addEventListener("click", () => turn(1));
  one("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  document.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, pre, .scroll")) return; // these use the arrows themselves
    if (viewer.open) turn(by);
    else if (rows.length) choose(at + by);
    else return;
    event.preventDefault();
  });

  one("#filter")?.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row) => {
      row.article.hidden = !words.every((word) => row.text.includes(word));
    });
    const left = rows.filter((row) => !row.article.hidden).length;
    one("#found").textContent = words.length ? `${left} of ${rows.length} prompts` : "";
  });

  one("#copy")?.addEventListener("click", async (event) => {
    const code = one("#command");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // no permission: select it, so that one key copies
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) return;
    }
    const button = event.target;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
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
