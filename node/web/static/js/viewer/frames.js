// Frames from the node: fetched once, kept while there is room, the next ones ahead.

const ROOM = 384 * 1024 * 1024;
const AHEAD = 6;
const AT_ONCE = 4;
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, rgb: Uint8Array };

export class Frames {
  constructor(study) {
    this.study = study;
    this.kept = new Map();
    this.size = 0;
    this.running = 0;
    this.queue = [];
  }

  key(entry) {
    return `${entry.instance}/${entry.frame}`;
  }

  /** The frame, if it is here already. */
  ready(entry) {
    const found = this.kept.get(this.key(entry));
    return found?.pixels ? found : null;
  }

  /** The frame; waits for it. Throws an Error whose message says why not. */
  async get(entry) {
    const key = this.key(entry);
    const known = this.kept.get(key);
    if (known) {
      // the newest last, so that the oldest goes first
      this.kept.delete(key);
      this.kept.set(key, known);
      return known.pixels ? known : known.promise;
    }
    const promise = this.fetch(entry);
    this.kept.set(key, { promise });
    try {
      const made = await promise;
      this.kept.set(key, made);
      this.size += made.pixels.byteLength;
      this.makeRoom(key);
      return made;
    } catch (error) {
      this.kept.delete(key);
      throw error;
    }
  }

  makeRoom(newest) {
    for (const [key, item] of this.kept) {
      if (this.size <= ROOM) return;
      if (key === newest || !item.pixels) continue;
      this.size -= item.pixels.byteLength;
      this.kept.delete(key);
    }
  }

  /** Fetch what comes next in the direction in which somebody scrolls. */
  ahead(entries, index, direction) {
    this.queue = [];
    for (let step = 1; step <= AHEAD; step += 1) {
      for (const at of [index + step * direction, step <= 2 ? index - step * direction : -1]) {
        if (entries[at] && !this.kept.has(this.key(entries[at]))) this.queue.push(entries[at]);
      }
    }
    this.pump();
  }

  pump() {
    while (this.running < AT_ONCE && this.queue.length) {
      const entry = this.queue.shift();
      this.running += 1;
      this.get(entry)
        .catch(() => null)
        .finally(() => {
          this.running -= 1;
          this.pump();
        });
    }
  }

  async fetch(entry) {
    const answer = await fetch(`/studies/${this.study}/frames/${entry.instance}/${entry.frame}`, {
      credentials: "same-origin",
      headers: { Accept: "application/octet-stream" },
    });
    if (!answer.ok) throw new Error(await reason(answer));
    const about = JSON.parse(answer.headers.get("X-Frame"));
    const buffer = await answer.arrayBuffer();
    return { ...about, pixels: new ARRAYS[about.type](buffer) };
  }
}

/** What a failed answer says. */
export async function reason(answer) {
  try {
    const problem = await answer.json();
    return problem.detail ?? problem.title ?? String(answer.status);
  } catch {
    return String(answer.status);
  }
}
