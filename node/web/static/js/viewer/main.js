// The image viewer of the study page.

import { typing } from "../page.js";
import { say } from "../words.js";
import { Screen } from "./draw.js";
import { Frames, reason } from "./frames.js";
import { listen } from "./gestures.js";
import { paint, spread, valueAt } from "./grey.js";
import { Heat } from "./heat.js";
import { onImage, Outlines } from "./outlines.js";

const CT_WINDOWS = [
  ["Brain", 40, 80],
  ["Stroke", 35, 40],
  ["Soft tissue", 50, 400],
  ["Lung", -600, 1500],
  ["Bone", 400, 1800],
];

class Viewer {
  constructor(root) {
    this.root = root;
    this.part = (name) => root.querySelector(`[data-${name}]`);
    this.views = JSON.parse(this.part("views").textContent);
    this.study = root.dataset.study;
    this.frames = new Frames(this.study);
    this.outlines = new Outlines(this.study);
    this.heat = new Heat(this.study);
    this.maps = null;
    this.screen = new Screen(this.part("canvas"));
    this.stage = this.part("stage");
    this.on = { outlines: true, labels: true, inverted: false, heat: false };
    this.index = 0;
    this.loaded = [];
    this.findings = [];
    this.stack = null;
    this.frame = null;
    // "stored" takes each frame's own window, "auto" and "range" look at each frame
    this.window = { mode: "stored", place: 0 };
    this.turn = 0;
    this.wire();
    this.open(0);
  }

  wire() {
    this.part("series").addEventListener("change", (event) => this.open(event.target.selectedIndex));
    this.part("overlay").addEventListener("change", (event) => this.choose(event.target.value));
    this.part("preset").addEventListener("change", (event) => this.preset(event.target.selectedIndex));
    this.part("slider").addEventListener("input", (event) => this.show(Number(event.target.value) - 1));
    this.part("fit").addEventListener("click", () => this.fit());
    for (const button of this.root.querySelectorAll("[data-tool]")) {
      if (button !== this.stage) button.addEventListener("click", () => this.tool(button.dataset.tool));
    }
    for (const button of this.root.querySelectorAll("[data-toggle]")) {
      button.addEventListener("click", () => this.toggle(button.dataset.toggle));
    }
    this.tool(window.matchMedia("(pointer: coarse)").matches ? "scroll" : "window");
    listen(this.stage, this.screen.canvas, {
      scroll: (steps) => this.show(this.index + steps),
      drag: (tool, dx, dy) => this.drag(tool, dx, dy),
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      hover: (x, y) => this.hover(x, y),
    });
    new ResizeObserver(() => this.redraw()).observe(this.stage);
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("click", (event) => {
      const link = event.target.closest?.("[data-go]");
      if (link) this.go(link.dataset.go, link.dataset.goSeries.split(" "));
    });
  }

  async open(place, image = null) {
    const view = this.views[place];
    const turn = ++this.turn;
    this.view = view;
    this.part("series").selectedIndex = place;
    this.root.dataset.ready = "";
    this.cover(say("loading"));
    this.frame = null;
    this.stack = null;
    this.screen.reset();
    try {
      const answer = await fetch(`/studies/${this.study}/series/${view.series}/stack`, {
        credentials: "same-origin",
        headers: { Accept: "application/json" },
      });
      if (!answer.ok) throw new Error(await reason(answer));
      const stack = await answer.json();
      if (turn !== this.turn) return;
      this.stack = stack;
    } catch (error) {
      if (turn === this.turn) this.cover(say("no_image", { why: error.message }));
      return;
    }
    const { frames, gone } = this.stack;
    if (!frames.length) {
      this.screen.clear();
      this.cover(gone ? say("gone", { n: gone }) : say("empty"));
      return;
    }
    this.part("slider").max = String(frames.length);
    this.part("slider").parentElement.hidden = frames.length < 2;
    this.window = { mode: "stored", place: 0 };
    const select = this.part("overlay");
    select.replaceChildren(
      ...view.overlays.map((item) => new Option(item.name, item.job)),
      new Option(say("no_analysis"), ""),
    );
    select.hidden = !view.overlays.length;
    for (const [n, letter] of (this.stack.orientation ?? ["", "", "", ""]).entries()) {
      this.root.querySelector(`[data-edge="${n}"]`).textContent = letter;
    }
    const choosing = this.choose(view.overlays[0]?.job ?? "");
    const at = image ? this.at(image) : this.first(view.overlays[0]);
    await this.show(at >= 0 ? at : Math.floor(frames.length / 2));
    await choosing;
  }

  at(image) {
    return this.stack.frames.findIndex((item) => item.image === image);
  }

  /** Where the first finding is seen best. */
  first(overlay) {
    const finding = (overlay?.findings ?? []).find((item) => item.image);
    return finding ? this.at(finding.image) : -1;
  }

  async choose(job) {
    const overlay = this.view.overlays.find((item) => item.job === job);
    this.findings = overlay?.findings ?? [];
    this.loaded = [];
    this.maps = null;
    this.root.querySelector("[data-toggle=heat]").hidden = !overlay?.heat;
    this.redraw();
    try {
      const [loaded, maps] = await Promise.all([
        this.outlines.load(overlay),
        this.heat.load(overlay?.heat),
      ]);
      // somebody may have chosen another one meanwhile
      if (overlay && this.part("overlay").value === job && this.view.overlays.includes(overlay)) {
        this.loaded = loaded;
        this.maps = maps;
      }
    } catch (error) {
      this.says(say("no_outlines", { why: error.message }));
      this.root.querySelector("[data-corner=value]").textContent = say("no_outlines", { why: error.message });
    }
    this.redraw();
  }

  async go(image, series) {
    const place = this.views.findIndex((view) => series.includes(view.series));
    if (place < 0) return;
    if (this.view === this.views[place] && this.stack) {
      const at = this.at(image);
      if (at >= 0) await this.show(at);
    } else {
      await this.open(place, image);
    }
    this.stage.scrollIntoView({ block: "nearest" });
    this.screen.canvas.focus({ preventScroll: true });
  }

  async show(index) {
    const { frames } = this.stack ?? { frames: [] };
    if (!frames.length) return;
    const wanted = Math.min(frames.length - 1, Math.max(0, index));
    const direction = wanted >= this.index ? 1 : -1;
    this.index = wanted;
    this.part("slider").value = String(wanted + 1);
    this.part("number").textContent = `${wanted + 1} / ${frames.length}`;
    const entry = frames[wanted];
    const stack = this.stack;
    if (!this.frames.ready(entry)) this.root.dataset.ready = "";
    try {
      const frame = await this.frames.get(entry);
      if (this.stack !== stack || this.index !== wanted) return;
      this.frame = frame;
      this.cover("");
      this.presets();
      this.repaint();
      this.says(`${say("image", { n: wanted + 1, of: frames.length })}. ${this.told()}`);
      this.root.dataset.ready = String(wanted + 1);
    } catch (error) {
      if (this.stack !== stack || this.index !== wanted) return;
      this.frame = null;
      this.screen.clear();
      this.cover(say("no_image", { why: error.message }));
      this.root.dataset.ready = "failed";
    }
    this.frames.ahead(frames, wanted, direction);
  }

  /** What a reader without eyes is told. */
  told() {
    const here = this.here();
    if (!here.length) return "";
    return `${say("findings_here", { n: here.length })}: ${here.map((item) => item.label).join(", ")}`;
  }

  here() {
    const entry = this.stack?.frames[this.index];
    return entry ? onImage(this.loaded, this.findings, entry.image) : [];
  }

  // windows

  choices() {
    const stored = (this.frame?.windows ?? []).map(([name], place) => ({
      name: name || `${say("original")}${place ? ` ${place + 1}` : ""}`,
      window: { mode: "stored", place },
    }));
    if (this.frame?.type === "rgb") return [];
    const ct = this.stack?.modality === "CT" ? CT_WINDOWS : [];
    return [
      ...stored,
      { name: say("automatic"), window: { mode: "auto" } },
      { name: say("whole_range"), window: { mode: "range" } },
      ...ct.map(([name, centre, width]) => ({ name: `${name} ${centre}/${width}`, window: { mode: "set", centre, width } })),
    ];
  }

  presets() {
    const select = this.part("preset");
    const choices = this.choices();
    const names = choices.map((item, n) => `${n < 9 ? `${n + 1} ` : ""}${item.name}`);
    if (this.window.mode === "set" && !this.window.named) names.push(say("custom"));
    if ([...select.options].map((item) => item.text).join("|") !== names.join("|")) {
      select.replaceChildren(...names.map((name) => new Option(name)));
    }
    select.hidden = !names.length;
    const now = choices.findIndex((item) =>
      this.window.named ? item.name === this.window.named
        : item.window.mode === this.window.mode && item.window.mode !== "set" && (item.window.place ?? 0) === (this.window.place ?? 0));
    select.selectedIndex = now >= 0 ? now : names.length - 1;
  }

  preset(place) {
    const choice = this.choices()[place];
    if (!choice) return;
    this.window = { ...choice.window, named: choice.window.mode === "set" ? choice.name : undefined };
    this.presets();
    this.repaint();
  }

  /** Centre and width for the frame that is shown. */
  levels() {
    const { frame } = this;
    if (this.window.mode === "set") return [this.window.centre, this.window.width];
    if (this.window.mode === "auto") return spread(frame, 0.01);
    if (this.window.mode === "range") return spread(frame, 0);
    const stored = frame.windows[this.window.place] ?? frame.windows[0];
    return stored ? [stored[1], stored[2]] : spread(frame, 0.005);
  }

  drag(tool, dx, dy) {
    if (!this.frame) return;
    if (tool === "pan") {
      this.screen.pan[0] += dx;
      this.screen.pan[1] += dy;
      this.redraw();
    } else if (tool === "zoom") {
      this.zoom(Math.exp(-dy / 200));
    } else if (tool === "window" && this.frame.type !== "rgb") {
      const [centre, width] = this.levels();
      const step = Math.max(width, Math.abs(this.frame.slope)) / 300;
      const least = Math.abs(this.frame.slope) || 1e-6;
      this.window = {
        mode: "set",
        centre: centre - dy * step * (this.turned() ? -1 : 1),
        width: Math.max(least, width + dx * step * 1.5),
      };
      this.presets();
      this.repaint();
    }
  }

  turned() {
    return Boolean(this.frame?.inverted) !== this.on.inverted;
  }

  zoom(factor, clientX = null, clientY = null) {
    if (!this.frame) return;
    const { screen } = this;
    const before = clientX === null ? null : screen.toImage(this.frame, this.stack.aspect, clientX, clientY);
    screen.zoom = Math.min(40, Math.max(0.2, screen.zoom * factor));
    if (before) {
      // what is under the pointer stays there
      const after = screen.toImage(this.frame, this.stack.aspect, clientX, clientY);
      const [sx, sy] = screen.place(this.frame, this.stack.aspect);
      const ratio = window.devicePixelRatio || 1;
      screen.pan[0] += ((after[0] - before[0]) * sx) / ratio;
      screen.pan[1] += ((after[1] - before[1]) * sy) / ratio;
    }
    this.redraw();
  }

  fit() {
    this.screen.reset();
    this.redraw();
  }

  // drawing

  repaint() {
    if (!this.frame) return;
    const [centre, width] = this.levels();
    paint(this.frame, centre, width, this.turned(), this.screen.imageFor(this.frame));
    this.screen.painted();
    const digits = width < 10 ? 2 : 0;
    this.root.querySelector("[data-corner=window]").textContent =
      this.frame.type === "rgb" ? "RGB" : `C ${centre.toFixed(digits)}  W ${width.toFixed(digits)}`;
    this.redraw();
  }

  redraw() {
    if (!this.frame) {
      this.screen.clear();
      return;
    }
    const entry = this.stack.frames[this.index];
    const outlines = this.on.outlines ? this.here() : [];
    const axes = this.on.outlines && this.on.labels
      ? this.findings
          .filter((item) => item.axes && item.image === entry.image)
          .map((item) => ({ colour: item.colour, lines: item.axes }))
      : [];
    const heat = this.on.heat ? this.heat.of(this.maps, entry.image) : null;
    this.root.dataset.heated = String(Boolean(heat));
    this.screen.draw(this.frame, this.stack.aspect, {
      heat,
      outlines,
      axes,
      labels: this.on.labels,
      path: (border) => this.outlines.path(border),
    });
    const place = entry.place === null ? "" : `\n${entry.place.toFixed(1)} mm`;
    this.root.querySelector("[data-corner=place]").textContent =
      `${say("image", { n: this.index + 1, of: this.stack.frames.length })}${place}`;
    this.root.dataset.outlined = String(outlines.length);
    this.screen.canvas.setAttribute(
      "aria-label",
      `${this.view.name}, ${say("image", { n: this.index + 1, of: this.stack.frames.length })}`,
    );
  }

  hover(x, y) {
    const corner = this.root.querySelector("[data-corner=value]");
    if (x === null || !this.frame) {
      corner.textContent = "";
      return;
    }
    const [column, row] = this.screen.toImage(this.frame, this.stack.aspect, x, y).map(Math.floor);
    const value = valueAt(this.frame, column, row);
    corner.textContent = value === null ? "" : `${column}, ${row}: ${value}`;
  }

  cover(text) {
    const cover = this.part("cover");
    cover.textContent = text;
    cover.hidden = !text;
  }

  says(text) {
    this.part("says").textContent = text;
  }

  tool(name) {
    this.stage.dataset.tool = name;
    for (const button of this.root.querySelectorAll("button[data-tool]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === name));
    }
  }

  toggle(name) {
    this.on[name] = !this.on[name];
    this.root
      .querySelector(`[data-toggle="${name}"]`)
      .setAttribute("aria-pressed", String(this.on[name]));
    if (name === "inverted") this.repaint();
    else this.redraw();
  }

  /** The next slice that has an outline, round and round. */
  next() {
    const { frames } = this.stack ?? { frames: [] };
    for (let step = 1; step <= frames.length; step += 1) {
      const at = (this.index + step) % frames.length;
      const image = frames[at].image;
      const outlined = this.loaded.some((seg) => seg.borders[image]);
      if (outlined || this.findings.some((item) => item.image === image)) {
        this.show(at);
        return;
      }
    }
  }

  key(event) {
    if (typing(event) || document.querySelector("dialog[open]")) return;
    const inside = this.root.contains(document.activeElement);
    const letters = {
      o: () => this.toggle("outlines"),
      l: () => this.toggle("labels"),
      h: () => this.toggle("heat"),
      i: () => this.toggle("inverted"),
      n: () => this.next(),
      "+": () => this.zoom(1.25),
      "=": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.fit(),
    };
    const moves = {
      ArrowUp: -1,
      ArrowLeft: -1,
      ArrowDown: 1,
      ArrowRight: 1,
      PageUp: -10,
      PageDown: 10,
    };
    if (event.key in letters) {
      letters[event.key]();
    } else if (/^[1-9]$/.test(event.key)) {
      this.preset(Number(event.key) - 1);
    } else if (inside && event.target.type !== "range" && event.key in moves) {
      this.show(this.index + moves[event.key]);
    } else if (inside && event.target.type !== "range" && (event.key === "Home" || event.key === "End")) {
      this.show(event.key === "Home" ? 0 : Infinity);
    } else {
      return;
    }
    event.preventDefault();
  }
}

for (const root of document.querySelectorAll("[data-viewer]")) new Viewer(root);
