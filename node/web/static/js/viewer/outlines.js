// Outlines of segmentations: fetched once, drawn as lines between pixels.

import { reason } from "./frames.js";

export class Outlines {
  constructor(study) {
    this.study = study;
    this.kept = new Map();
    this.paths = new WeakMap();
  }

  /** All segmentations of one analysis. */
  async load(overlay) {
    const loaded = [];
    for (const item of overlay?.segmentations ?? []) {
      if (!this.kept.has(item.id)) {
        const answer = await fetch(`/studies/${this.study}/outlines/${item.id}`, {
          credentials: "same-origin",
          headers: { Accept: "application/json" },
        });
        if (!answer.ok) throw new Error(await reason(answer));
        this.kept.set(item.id, await answer.json());
      }
      loaded.push({ part: item.part, ...this.kept.get(item.id) });
    }
    return loaded;
  }

  /** The lines of one border, in pixels of the image. */
  path(border) {
    let path = this.paths.get(border);
    if (!path) {
      path = new Path2D();
      for (let at = 0; at < border.across.length; at += 3) {
        const [y, x0, x1] = border.across.slice(at, at + 3);
        path.moveTo(x0, y);
        path.lineTo(x1, y);
      }
      for (let at = 0; at < border.down.length; at += 3) {
        const [x, y0, y1] = border.down.slice(at, at + 3);
        path.moveTo(x, y0);
        path.lineTo(x, y1);
      }
      this.paths.set(border, path);
    }
    return path;
  }
}

/** What lies on one image: each border with its colour and the name of its finding. */
export function onImage(loaded, findings, image) {
  const found = [];
  for (const seg of loaded) {
    for (const border of seg.borders[image] ?? []) {
      const segment = seg.segments.find((item) => item.number === border.segment);
      const finding = findings.find(
        (item) => item.segment === border.segment && item.part === seg.part,
      );
      found.push({
        border,
        colour: finding?.colour ?? segment?.colour ?? "rgb(255, 64, 64)",
        label: finding?.label ?? segment?.label ?? "",
      });
    }
  }
  return found;
}
