// The worklist: filters at once, lines by keyboard, several jobs at a time.

import { typing } from "./page.js";
import { say } from "./words.js";

const filters = document.querySelector("[data-filters]");
filters?.addEventListener("change", (event) => {
  if (event.target.matches("select, input[type=date]")) filters.requestSubmit();
});
// empty fields make the address long and say nothing
filters?.addEventListener("submit", () => {
  for (const field of filters.elements) {
    if (field.name && !field.value) field.disabled = true;
  }
});
window.addEventListener("pageshow", () => {
  for (const field of filters?.elements ?? []) field.disabled = false;
});

const more = filters?.querySelector("[data-more]");
more?.addEventListener("click", () => {
  more.setAttribute("aria-expanded", String(more.getAttribute("aria-expanded") !== "true"));
});

const bulk = document.querySelector("[data-bulk]");
const said = bulk?.querySelector("[data-selected]");

function boxes() {
  return [...(bulk?.querySelectorAll("input[name=job]") ?? [])];
}

function count() {
  const ticked = boxes().filter((box) => box.checked).length;
  if (said) said.textContent = ticked ? say("selected", { n: ticked }) : say("select_hint");
  for (const button of bulk?.querySelectorAll(".bulk button") ?? []) button.disabled = !ticked;
  bulk?.toggleAttribute("data-any", ticked > 0);
  const all = bulk?.querySelector("[data-all]");
  if (all) {
    all.checked = ticked > 0 && ticked === boxes().length;
    all.indeterminate = ticked > 0 && ticked < boxes().length;
  }
  return ticked;
}

bulk?.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of boxes()) box.checked = event.target.checked;
  }
  count();
});
bulk?.addEventListener("submit", (event) => {
  const cancel = event.submitter?.getAttribute("formaction")?.endsWith("/cancel");
  const ticked = boxes().filter((box) => box.checked).length;
  if (cancel && !window.confirm(say("confirm_cancel", { n: ticked }))) event.preventDefault();
});
document.addEventListener("sentinode:updated", count);
if (bulk) count();

function move(step) {
  const rows = [...document.querySelectorAll("tr[data-row]")];
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.classList.contains("at"));
  const next = Math.min(rows.length - 1, Math.max(0, now < 0 ? 0 : now + step));
  rows[now]?.classList.remove("at");
  rows[next].classList.add("at");
  rows[next].querySelector("[data-open]")?.focus({ preventScroll: true });
  rows[next].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (typing(event) || document.querySelector("dialog[open]")) return;
  const row = document.querySelector("tr.at");
  if (event.key === "j") move(1);
  else if (event.key === "k") move(-1);
  else if (event.key === "x" && row) {
    const box = row.querySelector("input[name=job]");
    if (box) {
      box.checked = !box.checked;
      count();
    }
  } else if (event.key === "Enter" && row && event.target === document.body) {
    row.querySelector("[data-open]")?.click();
  }
});
