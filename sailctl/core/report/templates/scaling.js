"use strict";
for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll(".filters button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
    for (const axis of document.querySelectorAll(".axis")) axis.hidden = axis.dataset.axis !== button.dataset.axis;
  });
}
