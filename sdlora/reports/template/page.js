
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
  let at = slider ? Number(slider.value) : columns.length - 1;

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

  function captioned(button) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = nameOf(button);
    figure.append(copyOf(button, "one"), caption);
    return figure;
  }

  // The picture beside the base's; ← and → change the step, ↑ and ↓ the prompt.
  function view(row, index) {
    const button = row.pictures[index];
    const base = row.pictures.find(isBase);
    const pair = base && button !== base ? [base, button] : [button];
    const scores = button.dataset.scores ? ` (${button.dataset.scores})` : "";
    const text = `${nameOf(button)}: ${one("h3", row.article).textContent}${scores}`;
    const images = pair.length > 1 ? pair.map(captioned) : copyOf(button, "one");
    enlarge(images, text, (across, down) => turn(row, index, across, down));
  }

  function turn(row, index, across, down) {
    const shown = rows.filter((each) => !each.article.hidden);
    const to = down ? shown[shown.indexOf(row) + down] : row;
    if (!to) return;
    const same = to.pictures.findIndex((each) => nameOf(each) === nameOf(row.pictures[index]));
    const next = down ? (same < 0 ? to.pictures.length - 1 : same) : index + across;
    const button = to.pictures[next];
    if (!button) return;
    view(to, next);
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
    const more = one("#more-prompts");
    if (more && words.length) more.open = true;
    one("#found").textContent = words.length ? `${left} of ${rows.length} prompts` : "";
  });

  // A page of a run that trains: how old it is, and the newest one from the disk now and then.
  const live = one("#live[data-state='running']");

  function spoken(seconds) {
    const minutes = Math.round(seconds / 60);
    if (seconds < 90) return `${Math.round(seconds)} s ago`;
    if (minutes < 90) return `${minutes} min ago`;
    const hours = Math.round(minutes / 60);
    return hours < 36 ? `${hours} h ago` : `${Math.round(hours / 24)} days ago`;
  }

  function tellAge() {
    const seconds = Math.max(0, Date.now() / 1000 - Number(live.dataset.written));
    const isSilent = seconds > Number(live.dataset.quiet);
    one("#age").textContent = `Written ${spoken(seconds)}.`;
    one("#silent").hidden = !isSilent;
    one("#silence").textContent = spoken(seconds);
    const command = one("#go-on");
    if (command) command.hidden = !isSilent;
  }

  // What was opened and chosen is kept over a reload; where storage is closed, it is not.
  const kept = `sdlora:${location.pathname}`;
  const details = all("details");

  function keep() {
    const isLast = at === columns.length - 1; // then the newest pictures are shown
    const state = { open: details.map((each) => each.open), at: isLast ? null : columns[at] };
    try { sessionStorage.setItem(kept, JSON.stringify(state)); } catch { /* closed */ }
  }

  function restore() {
    try {
      const state = JSON.parse(sessionStorage.getItem(kept));
      sessionStorage.removeItem(kept);
      if (!state) return;
      if (state.open.length === details.length) {
        details.forEach((each, index) => { each.open = state.open[index]; });
      }
      if (columns.includes(state.at)) choose(columns.indexOf(state.at));
    } catch { /* closed, or of another page */ }
  }

  if (live) {
    let touched = 0;
    ["pointerdown", "keydown", "scroll", "input"].forEach((name) =>
      addEventListener(name, () => { touched = Date.now(); }, { passive: true, capture: true }));
    tellAge();
    setInterval(tellAge, 1000);
    setInterval(() => {
      const isBusy = one("#viewer").open || Date.now() - touched < 10_000 || document.hidden;
      if (isBusy || String(getSelection())) return;
      keep();
      location.reload();
    }, 20_000);
  }
  restore();

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
