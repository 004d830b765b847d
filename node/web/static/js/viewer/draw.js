// Draws one frame and what lies on it into the canvas.

export class Screen {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.picture = document.createElement("canvas");
    this.image = null;
    this.reset();
  }

  reset() {
    this.zoom = 1;
    this.pan = [0, 0];
  }

  /** An image of the frame's size to paint into. */
  imageFor(frame) {
    if (this.image?.width !== frame.columns || this.image?.height !== frame.rows) {
      this.picture.width = frame.columns;
      this.picture.height = frame.rows;
      this.image = new ImageData(frame.columns, frame.rows);
    }
    return this.image;
  }

  painted() {
    this.picture.getContext("2d").putImageData(this.image, 0, 0);
  }

  /** From pixels of the image to pixels of the canvas: x scale, y scale, x and y of the corner. */
  place(frame, aspect) {
    const { width, height } = this.canvas;
    const fit = Math.min(width / frame.columns, height / (frame.rows * aspect));
    const sx = fit * this.zoom;
    const sy = sx * aspect;
    const ratio = window.devicePixelRatio || 1;
    return [
      sx,
      sy,
      (width - frame.columns * sx) / 2 + this.pan[0] * ratio,
      (height - frame.rows * sy) / 2 + this.pan[1] * ratio,
    ];
  }

  /** From a place in the window to pixels of the image. */
  toImage(frame, aspect, clientX, clientY) {
    const box = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const [sx, sy, x, y] = this.place(frame, aspect);
    return [((clientX - box.left) * ratio - x) / sx, ((clientY - box.top) * ratio - y) / sy];
  }

  /** Make the canvas as fine as the screen. */
  fitBox() {
    const box = this.canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(box.width * ratio));
    const height = Math.max(1, Math.round(box.height * ratio));
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
  }

  clear() {
    this.fitBox();
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  draw(frame, aspect, layers) {
    this.clear();
    const { context } = this;
    const [sx, sy, x, y] = this.place(frame, aspect);
    context.imageSmoothingEnabled = sx < 6;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, x, y, frame.columns * sx, frame.rows * sy);
    if (layers.heat) {
      context.imageSmoothingEnabled = true;
      context.drawImage(layers.heat, x, y, frame.columns * sx, frame.rows * sy);
    }
    const matrix = new DOMMatrix([sx, 0, 0, sy, x, y]);
    const ratio = window.devicePixelRatio || 1;
    for (const item of layers.outlines) {
      const path = new Path2D();
      path.addPath(layers.path(item.border), matrix);
      context.lineCap = "square";
      context.strokeStyle = "rgba(0, 0, 0, 0.55)";
      context.lineWidth = 3 * ratio;
      context.stroke(path);
      context.strokeStyle = item.colour;
      context.lineWidth = 1.5 * ratio;
      context.stroke(path);
    }
    for (const axes of layers.axes) {
      context.strokeStyle = axes.colour;
      context.lineWidth = 1.2 * ratio;
      context.setLineDash([4 * ratio, 3 * ratio]);
      for (const [from, to] of axes.lines) {
        context.beginPath();
        context.moveTo(from[0] * sx + x, from[1] * sy + y);
        context.lineTo(to[0] * sx + x, to[1] * sy + y);
        context.stroke();
      }
      context.setLineDash([]);
    }
    if (layers.labels) this.labels(layers.outlines, sx, sy, x, y, ratio);
  }

  labels(outlines, sx, sy, x, y, ratio) {
    const { context } = this;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    const taken = [];
    for (const item of outlines) {
      const [, y0, x1] = item.border.box;
      const wide = context.measureText(item.label).width + 10 * ratio;
      const high = 18 * ratio;
      let left = Math.min(x1 * sx + x + 6 * ratio, this.canvas.width - wide - 4 * ratio);
      let top = y0 * sy + y - high / 2;
      left = Math.max(4 * ratio, left);
      for (const other of taken) {
        if (Math.abs(other - top) < high) top = other + high;
      }
      taken.push(top);
      context.fillStyle = "rgba(0, 0, 0, 0.66)";
      context.fillRect(left, top, wide, high);
      context.fillStyle = item.colour;
      context.fillRect(left, top, 3 * ratio, high);
      context.fillStyle = "#fff";
      context.fillText(item.label, left + 7 * ratio, top + high / 2);
    }
  }
}
