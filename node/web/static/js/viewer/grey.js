// From stored numbers to grey: windows by PS3.3 C.11.2.1.2, one table a frame.

const OFFSET = { uint8: 0, uint16: 0, int16: 32768 };

/** 65,536 colours, one for each number that can be stored. */
export function table(frame, centre, width, inverted) {
  const colours = new Uint32Array(65536);
  const shift = OFFSET[frame.type];
  for (let place = 0; place < 65536; place += 1) {
    const value = (place - shift) * frame.slope + frame.intercept;
    let grey =
      width > 1
        ? ((value - (centre - 0.5)) / (width - 1) + 0.5) * 255
        : ((value - centre) / width + 0.5) * 255;
    grey = grey < 0 ? 0 : grey > 255 ? 255 : grey;
    if (inverted) grey = 255 - grey;
    const level = Math.round(grey);
    colours[place] = 0xff000000 | (level << 16) | (level << 8) | level;
  }
  return colours;
}

/** The frame as an image of its own size. */
export function paint(frame, centre, width, inverted, image) {
  const out = new Uint32Array(image.data.buffer);
  const { pixels } = frame;
  if (frame.type === "rgb") {
    for (let at = 0, from = 0; at < out.length; at += 1, from += 3) {
      let colour = pixels[from] | (pixels[from + 1] << 8) | (pixels[from + 2] << 16);
      if (inverted) colour ^= 0xffffff;
      out[at] = 0xff000000 | colour;
    }
    return;
  }
  const colours = table(frame, centre, width, inverted);
  const shift = OFFSET[frame.type];
  for (let at = 0; at < out.length; at += 1) out[at] = colours[pixels[at] + shift];
}

/** Centre and width of what is there: all of it, or all but the outermost hundredths. */
export function spread(frame, share) {
  if (frame.type === "rgb") return [127.5, 256];
  const shift = OFFSET[frame.type];
  const counts = new Uint32Array(65536);
  for (const value of frame.pixels) counts[value + shift] += 1;
  const skip = Math.floor(frame.pixels.length * share);
  let low = 0;
  for (let left = skip; low < 65535 && counts[low] <= left; low += 1) left -= counts[low];
  let high = 65535;
  for (let left = skip; high > low && counts[high] <= left; high -= 1) left -= counts[high];
  const a = (low - shift) * frame.slope + frame.intercept;
  const b = (high - shift) * frame.slope + frame.intercept;
  const step = Math.abs(frame.slope) || 1;
  return [(a + b) / 2, Math.max(Math.abs(b - a), step)];
}

/** The value at a pixel, in the units of windows; of colour its three parts. */
export function valueAt(frame, column, row) {
  if (column < 0 || row < 0 || column >= frame.columns || row >= frame.rows) return null;
  const at = row * frame.columns + column;
  if (frame.type === "rgb") return [...frame.pixels.slice(at * 3, at * 3 + 3)].join(", ");
  const value = frame.pixels[at] * frame.slope + frame.intercept;
  return String(Math.round(value * 1000) / 1000);
}
