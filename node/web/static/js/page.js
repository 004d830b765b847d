// What every page does: menu, keyboard, ages that count up, lists that are searched.

import { offset, start } from "./live.js";

const help = document.getElementById("help");

for (const button of document.querySelectorAll("[data-menu]")) {
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
  });
}

for (const button of document.querySelectorAll("[data-help]")) {
  button.addEventListener("click", () => help?.showModal());
}

document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.who[open]")) {
    if (!open.contains(event.target)) open.open = false;
  }
});

/** Whether somebody is typing. */
export function typing(event) {
  const at = event.target;
  return (
    event.ctrlKey || event.metaKey || event.altKey || at.isContentEditable ||
    (at.matches?.("input:not([type=checkbox]), select, textarea") && at.type !== "range")
  );
}

let prefix = "";
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const open of document.querySelectorAll("details.who[open]")) {
      open.open = false;
      open.querySelector("summary").focus();
    }
    if (event.target.matches?.("[data-search]")) event.target.blur();
  }
  if (typing(event) || help?.open) return;
  if (prefix === "g") {
    prefix = "";
    const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) {
      event.preventDefault();
      link.click();
    }
    return;
  }
  if (event.key === "g") {
    prefix = "g";
    setTimeout(() => {
      prefix = "";
    }, 1200);
  } else if (event.key === "?") {
    event.preventDefault();
    help?.showModal();
  } else if (event.key === "/") {
    const search = document.querySelector("[data-search]");
    if (search) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  }
});

for (const field of document.querySelectorAll("[data-find]")) {
  const rows = document.querySelectorAll(`#${CSS.escape(field.dataset.find)} tbody tr`);
  const narrow = () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  };
  field.addEventListener("input", narrow);
  narrow(); // somebody may have typed before this script was here
}

/** A duration, as the server writes it (node/web/pages/formats.py). */
export function span(seconds) {
  const s = Math.max(0, seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 10) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

setInterval(() => {
  if (document.hidden) return;
  const now = Date.now() + offset();
  for (const time of document.querySelectorAll("time[data-since]")) {
    time.textContent = span((now - Date.parse(time.dateTime)) / 1000);
  }
}, 1000);

for (const part of document.querySelectorAll("[data-live]")) {
  const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
  part.dataset.openSent = open.join(" ");
}
start();
