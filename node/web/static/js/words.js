// What scripts say, in the page's language.

const box = document.getElementById("words");
const texts = box ? JSON.parse(box.textContent) : {};

/** The text of a key, with {name} replaced by values. */
export function say(key, values = {}) {
  const text = texts[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}
