
"use strict";
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const slider = one("#step");
  const rows = all(".prompt").map((article) => ({
    article,
    text: one("h3", article).textContent.toLowerCase(),
    compare: one(".compare", article),
    pictures: all(".strip button", article),
  }));
  const steps = slider
    ? JSON.parse(slider.dataset.steps)
    : [...new Set(all(".strip button").map((button) => button.dataset.step))]
        .filter((name) => name !== "base").map(Number);
  let at = steps.length - 1;

  const named = (row, name) => row.pictures.find((button) => button.dataset.step === String(name));
  const nameOf = (name) => (name === "base" ? "base" : `step ${name}`);

  // The picture of the step, else of the nearest one that the row has.
  function nearest(row, step) {
    const own = row.pictures.filter((button) => button.dataset.step !== "base");
    return own.sort((a, b) =>
      Math.abs(a.dataset.step - step) - Math.abs(b.dataset.step - step))[0];
  }

  function copyOf(button, kind) {
    const image = one("img", button).cloneNode();
    image.classList.add(kind);
    return image;
  }

  function showStep(row) {
    const base = named(row, "base");
    const lora = steps.length ? nearest(row, steps[at]) : undefined;
    row.pictures.forEach((button) => button.toggleAttribute("aria-current", button === lora));
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
    one(".lora-name", row.compare).textContent = lora ? nameOf(lora.dataset.step) : "";
    frame.dataset.step = (lora ?? base).dataset.step;
    frame.setAttribute("aria-label", `Enlarge ${nameOf(frame.dataset.step)}`);
    row.compare.hidden = false;
  }

  function setStep(index) {
    at = Math.min(Math.max(index, 0), steps.length - 1);
    rows.forEach(showStep);
    if (!slider) return;
    const best = String(steps[at]) === slider.dataset.best ? " ★" : "";
    slider.value = at;
    slider.setAttribute("aria-valuetext", nameOf(steps[at]));
    one("#step-name").textContent = `${steps[at]}${best}`;
  }

  // Enlarged: one picture of a row, or another picture of the page as it is.
  const viewer = one("#viewer");
  let viewed = null;

  function view(row, button) {
    viewed = { row, index: row.pictures.indexOf(button) };
    const image = copyOf(button, "one");
    open(image, `${nameOf(button.dataset.step)}: ${one("h3", row.article).textContent}`, true);
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
    const index = steps.indexOf(Number(button.dataset.step));
    if (index >= 0) setStep(index);
  }

  rows.forEach((row) => {
    row.pictures.forEach((button) => button.addEventListener("click", () => view(row, button)));
    one(".frame", row.compare).addEventListener("click", (event) =>
      view(row, named(row, event.currentTarget.dataset.step)));
    one(".split", row.compare).addEventListener("input", (event) =>
      row.compare.style.setProperty("--split", `${event.target.value}%`));
  });
  if (rows.length) setStep(at);
  slider?.addEventListener("input", () => setStep(Number(slider.value)));

  all("[data-enlarge]").forEach((button) => button.addEventListener("click", () => {
    viewed = null;
    const image = one("img", button);
    open(copyOf(button, "whole"), image.alt, false);
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
    else if (rows.length) setStep(at + by);
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
