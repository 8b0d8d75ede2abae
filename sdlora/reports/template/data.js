"use strict";
(() => {
  const { one, all, enlarge, onArrows } = shared;
  const buttons = all("[data-enlarge]");

  // ← and → walk through the pictures of the check.
  function view(index) {
    const button = buttons[index];
    if (!button) return;
    const image = one("img", button).cloneNode();
    image.classList.add("one");
    enlarge(image, image.alt, (by) => view(index + by));
  }

  buttons.forEach((button, index) => button.addEventListener("click", () => view(index)));
  onArrows(() => false);
})();
