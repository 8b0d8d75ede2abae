
"use strict";
// What the pages of a run and of a sweep both have: the viewer, commands to copy, split pictures.
const shared = (() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const viewer = one("#viewer");
  let turn = null;

  // Shows a picture large; `onTurn`, if there is one, is called with -1 or 1 for its neighbours.
  function enlarge(image, text, onTurn = null) {
    turn = onTurn;
    one(".stage", viewer).replaceChildren(image);
    one("p", viewer).replaceChildren(...[text].flat());
    one("#previous").hidden = one("#next").hidden = !turn;
    if (!viewer.open) viewer.showModal();
  }

  one("#previous").addEventListener("click", () => turn?.(-1));
  one("#next").addEventListener("click", () => turn?.(1));
  one("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });

  // ← and → turn the viewer while it is open, else they do what the page says.
  function onArrows(move) {
    document.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      if (event.target.closest("input, select, pre, .scroll")) return; // use the arrows themselves
      if (viewer.open) turn?.(by);
      else if (move(by) === false) return;
      event.preventDefault();
    });
  }

  all(".compare").forEach((compare) => one(".split", compare).addEventListener("input", (event) =>
    compare.style.setProperty("--split", `${event.target.value}%`)));

  all(".command").forEach((command) => one(".copy", command).addEventListener("click", async (event) => {
    const code = one("code", command);
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch { // no permission: select it, so that one key copies
      getSelection().selectAllChildren(code);
      if (!document.execCommand("copy")) return;
    }
    const button = event.target;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));

  return { one, all, enlarge, onArrows };
})();
