
"use strict";
// What the pages of a run and of a sweep both have: the viewer, commands to copy, split pictures.
const shared = (() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const viewer = one("#viewer");
  let turn = null;

  // Shows a picture large, or several side by side. `onTurn`, if there is one, is called with -1 or
  // 1 for the neighbouring step; one of two arguments also with 0 and -1 or 1 for that prompt.
  function enlarge(images, text, onTurn = null) {
    turn = onTurn;
    const shown = [images].flat();
    const stage = one(".stage", viewer);
    stage.replaceChildren(...shown);
    stage.classList.toggle("sides", shown.length > 1);
    one("p", viewer).replaceChildren(...[text].flat());
    one("#previous").hidden = one("#next").hidden = !turn;
    one("#viewer-up").hidden = one("#viewer-down").hidden = !turn || turn.length < 2;
    if (!viewer.open) viewer.showModal();
  }

  function move(across, down) {
    if (turn && (across || turn.length > 1)) turn(across, down);
  }

  one("#previous").addEventListener("click", () => move(-1, 0));
  one("#next").addEventListener("click", () => move(1, 0));
  one("#viewer-up").addEventListener("click", () => move(0, -1));
  one("#viewer-down").addEventListener("click", () => move(0, 1));
  one("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  // The arrow keys turn the viewer while it is open, else ← and → do what the page says.
  function onArrows(turnPage) {
    document.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const by = steps[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.target.closest("input, select, pre, .scroll")) return; // use the arrows themselves
      if (viewer.open) move(...by);
      else if (by[1] || turnPage(by[0]) === false) return;
      event.preventDefault();
    });
  }

  all(".compare").forEach((compare) => one(".split", compare).addEventListener("input", (event) =>
    compare.style.setProperty("--split", `${event.target.value}%`)));

  all(".command").forEach((command) => one(".copy", command).addEventListener("click", async (event) => {
    const code = one("code", command);
    const label = event.target.textContent;
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // no permission: select it, so that one key copies
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) return;
    }
    const button = event.target;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = label; }, 1500);
  }));

  return { one, all, enlarge, onArrows };
})();
