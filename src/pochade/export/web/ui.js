// What the parts of the page share.

export const $ = (id) => document.getElementById(id);

/** An element with properties, `data-` and `aria-` attributes by their names, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A line of text that stays until it is closed, or, with an action, for ten seconds. */
export function notice(text, action = null) {
  if (!action && [...$("notices").children].some((one) => one.firstChild.textContent === text)) return;
  const button = make("button", { type: "button", textContent: action?.label ?? "OK" });
  const line = make("div", { className: "notice" }, make("span", { textContent: text }), button);
  button.onclick = () => {
    line.remove();
    action?.run();
  };
  if (action?.seconds) setTimeout(() => line.remove(), 1000 * action.seconds);
  $("notices").append(line);
}

export const seconds = (milliseconds) => (milliseconds < 9950 ? `${(milliseconds / 1000).toFixed(1)} s` : `${Math.round(milliseconds / 1000)} s`);

/** What the browser remembers of small things; nothing where it refuses. */
export const memory = {
  get(name, storage = "localStorage") {
    try {
      return JSON.parse(self[storage].getItem(memory.name(name)));
    } catch {
      return null;
    }
  },
  set(name, value, storage = "localStorage") {
    try {
      self[storage].setItem(memory.name(name), JSON.stringify(value));
    } catch {
      // refused: it works without
    }
  },
  name: (name) => `pochade:${new URL(".", import.meta.url).pathname}:${name}`,
};

/** Draws { width, height, data: RGBA } into a canvas. */
export function show(canvas, { width, height, data }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}
