"use strict";
const chosen = { task: "", verdict: "" };
const cards = [...document.querySelectorAll(".sample")];
const empty = document.getElementById("nothing");
function show() {
  let shown = 0;
  for (const card of cards) {
    const fits = Object.keys(chosen).every((key) => !chosen[key] || card.dataset[key] === chosen[key]);
    card.hidden = !fits;
    shown += fits;
  }
  if (empty) empty.hidden = shown > 0;
}
for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    chosen[button.dataset.filter] = button.dataset.value;
    for (const other of document.querySelectorAll(".filters button")) {
      if (other.dataset.filter === button.dataset.filter) {
        other.setAttribute("aria-pressed", String(other === button));
      }
    }
    show();
  });
}
