// Mouse, pen and fingers on the image.

const WHEEL_STEP = 60;

/** Report gestures: `scroll(steps)`, `drag(tool, dx, dy)`, `zoom(factor, x, y)`, `hover(x, y)`. */
export function listen(stage, canvas, report) {
  const fingers = new Map();
  let turned = 0;
  let dragged = 0;
  let pinch = 0;

  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.ctrlKey) {
        report.zoom(event.deltaY < 0 ? 1.12 : 1 / 1.12, event.clientX, event.clientY);
        return;
      }
      const unit = event.deltaMode === 0 ? 1 : WHEEL_STEP;
      turned += event.deltaY * unit;
      // a click of a wheel is one slice, however much it says that it turned
      const steps = event.deltaMode === 0 && Math.abs(event.deltaY) < WHEEL_STEP
        ? Math.trunc(turned / WHEEL_STEP)
        : Math.sign(event.deltaY);
      if (steps) {
        turned = 0;
        report.scroll(steps);
      }
    },
    { passive: false },
  );

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    dragged = 0;
    pinch = fingers.size === 2 ? apart(fingers) : 0;
    canvas.focus({ preventScroll: true });
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) {
      report.hover(event.clientX, event.clientY);
      return;
    }
    const now = [event.clientX, event.clientY];
    fingers.set(event.pointerId, now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    if (fingers.size === 2) {
      const distance = apart(fingers);
      const [x, y] = middle(fingers);
      if (pinch) report.zoom(distance / pinch, x, y);
      pinch = distance;
      report.drag("pan", dx / 2, dy / 2);
      return;
    }
    let tool = stage.dataset.tool;
    if (event.buttons & 2 || event.shiftKey) tool = "pan";
    if (event.buttons & 4) tool = "zoom";
    if (tool === "scroll") {
      dragged += dy;
      const steps = Math.trunc(dragged / 8);
      if (steps) {
        dragged -= steps * 8;
        report.scroll(steps);
      }
    } else {
      report.drag(tool, dx, dy);
    }
  });
  const up = (event) => {
    fingers.delete(event.pointerId);
    pinch = 0;
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => report.hover(null, null));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
}

function apart(fingers) {
  const [a, b] = [...fingers.values()];
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

function middle(fingers) {
  const [a, b] = [...fingers.values()];
  return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
}
