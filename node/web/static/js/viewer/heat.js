// Class activation maps: tiles of one grey picture, drawn over the image from clear to yellow.

import { reason } from "./frames.js";

const OPACITY = 0.6;

export class Heat {
  constructor(study) {
    this.study = study;
    this.kept = new Map();
  }

  /** The maps of one analysis; null where it has none. */
  async load(result) {
    if (!result) return null;
    if (!this.kept.has(result)) this.kept.set(result, this.fetch(result));
    try {
      return await this.kept.get(result);
    } catch (error) {
      this.kept.delete(result);
      throw error;
    }
  }

  async fetch(result) {
    const path = `/studies/${this.study}/heat/${result}`;
    const [places, picture] = await Promise.all(
      [path, `${path}.png`].map(async (url) => {
        const answer = await fetch(url, { credentials: "same-origin" });
        if (!answer.ok) throw new Error(await reason(answer));
        return answer;
      }),
    );
    const { maps } = await places.json();
    return { maps, picture: await createImageBitmap(await picture.blob()), coloured: new Map() };
  }

  /** The map of one image in colours, as a canvas of the map's size; null where there is none. */
  of(loaded, image) {
    const place = loaded?.maps[image];
    if (!place) return null;
    if (!loaded.coloured.has(image)) loaded.coloured.set(image, coloured(loaded.picture, place));
    return loaded.coloured.get(image);
  }
}

function coloured(picture, [left, top, columns, rows]) {
  const canvas = document.createElement("canvas");
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, left, top, columns, rows, 0, 0, columns, rows);
  const tile = context.getImageData(0, 0, columns, rows);
  for (let at = 0; at < tile.data.length; at += 4) {
    const strength = tile.data[at] / 255;
    tile.data[at] = 255;
    tile.data[at + 1] = 255 * strength ** 2;
    tile.data[at + 2] = 0;
    tile.data[at + 3] = 255 * OPACITY * Math.sqrt(strength);
  }
  context.putImageData(tile, 0, 0);
  return canvas;
}
