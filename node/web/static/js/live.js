// Keeps a page true while it is open: server-sent events say that something changed, then the
// parts marked data-live are fetched anew. Where events do not come, it asks every ten seconds.

import { say } from "./words.js";

const AT_ONCE_MS = 250;
const BETWEEN_MS = 1500;
const POLL_MS = 10000;
const QUIET_POLL_MS = 30000;

const sign = document.querySelector("[data-live-sign]");
const source = document.body.dataset.events;
const study = /^\/studies\/([0-9.]+)$/.exec(location.pathname)?.[1];

let events = null;
let timer = 0;
let poll = 0;
let last = 0;
let fetching = false;
let clockOffset = 0;

/** How far the server's clock is from this one, ms. */
export function offset() {
  return clockOffset;
}

export function start() {
  readClock(document);
  if (!source || !document.querySelector("[data-live]")) {
    sign?.remove();
    return;
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      disconnect();
    } else {
      connect();
      soon(0);
    }
  });
  connect();
}

function connect() {
  disconnect();
  show("wait");
  schedulePoll();
  if (!("EventSource" in window)) {
    show("poll");
    return;
  }
  events = new EventSource(source);
  events.addEventListener("open", () => show("on"));
  events.addEventListener("error", () => show("poll"));
  for (const kind of ["job", "study", "transfer"]) {
    events.addEventListener(kind, (event) => {
      if (!study || about(event) === study) soon(AT_ONCE_MS);
    });
  }
  events.addEventListener("reset", () => soon(0));
  events.addEventListener("end", () => location.reload());
}

function disconnect() {
  events?.close();
  events = null;
  clearTimeout(poll);
}

function about(event) {
  try {
    return JSON.parse(event.data).study;
  } catch {
    return study;
  }
}

function show(state) {
  if (!sign) return;
  sign.dataset.liveState = state;
  sign.querySelector(".live-text").textContent = say(`live_${state}`);
}

function schedulePoll() {
  clearTimeout(poll);
  const open = events?.readyState === EventSource.OPEN;
  poll = setTimeout(
    () => {
      soon(0);
      schedulePoll();
    },
    open ? QUIET_POLL_MS : POLL_MS,
  );
}

function soon(delay) {
  if (timer) return;
  const wait = Math.max(delay, last + BETWEEN_MS - Date.now());
  timer = setTimeout(
    () => {
      timer = 0;
      refresh();
    },
    Math.max(0, wait),
  );
}

/** Fetch this page again and put its live parts in the place of the old ones. */
export async function refresh() {
  if (fetching || document.hidden) return;
  fetching = true;
  last = Date.now();
  try {
    const answer = await fetch(location.href, {
      headers: { Accept: "text/html" },
      credentials: "same-origin",
    });
    if (answer.redirected && new URL(answer.url).pathname === "/sign-in") {
      location.reload();
      return;
    }
    if (!answer.ok) {
      show("off");
      return;
    }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    readClock(fresh);
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.getElementById(part.id);
      if (other) replace(part, other);
    }
    if (sign?.dataset.liveState === "off") show(events?.readyState === 1 ? "on" : "poll");
  } catch {
    show("off");
  } finally {
    fetching = false;
    last = Date.now();
  }
}

function readClock(page) {
  const now = Date.parse(page.body.dataset.now ?? "");
  if (!Number.isNaN(now)) clockOffset = now - Date.now();
}

/** Without the ages, which count up by themselves. */
function content(part) {
  return part.innerHTML.replace(/(<time[^>]*data-since[^>]*>)[^<]*/g, "$1");
}

function busy(part) {
  const at = document.activeElement;
  return part.contains(at) && at.matches("select, textarea, input:not([type=checkbox])");
}

function replace(part, other) {
  if (busy(part)) return;
  const before = untouched(part);
  if (content(before) === content(other)) return;
  const open = new Set([...part.querySelectorAll("details[id]")].filter((d) => d.open).map((d) => d.id));
  const shut = new Set([...part.querySelectorAll("details[id]")].filter((d) => !d.open).map((d) => d.id));
  const ticked = new Set([...part.querySelectorAll("input:checked")].map((box) => box.value));
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const path = focused ? describe(focused) : null;
  const at = part.querySelector("tr.at")?.id;
  part.replaceChildren(...[...other.childNodes].map((node) => document.importNode(node, true)));
  for (const details of part.querySelectorAll("details[id]")) {
    if (open.has(details.id)) details.open = true;
    else if (shut.has(details.id)) details.open = false;
  }
  for (const box of part.querySelectorAll("input[type=checkbox]")) {
    if (box.value !== "on" && ticked.has(box.value)) box.checked = true;
  }
  if (at) document.getElementById(at)?.classList.add("at");
  if (path) part.querySelector(path)?.focus({ preventScroll: true });
  document.dispatchEvent(new CustomEvent("sentinode:updated", { detail: part }));
}

/** A copy as the server sent it: what a person opened does not count as a difference. */
function untouched(part) {
  const copy = part.cloneNode(true);
  for (const row of copy.querySelectorAll("tr.at")) {
    row.classList.remove("at");
    if (!row.className) row.removeAttribute("class");
  }
  for (const details of copy.querySelectorAll("details")) {
    const sent = part.dataset.openSent?.split(" ") ?? [];
    details.toggleAttribute("open", sent.includes(details.id));
  }
  return copy;
}

function describe(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  if (element.matches("a[href]")) return `a[href="${CSS.escape(element.getAttribute("href"))}"]`;
  if (element.name && element.value) {
    return `[name="${CSS.escape(element.name)}"][value="${CSS.escape(element.value)}"]`;
  }
  return null;
}
