// The workspace: a picture to edit, and a mask that is drawn over it with a finger, a mouse or the keyboard.

import { $, notice, show } from "./ui.js";

const LARGEST = 1024; // pixels a side of a picture that is edited; larger ones are made smaller
const MASK = [226, 74, 36];

export class Editor {
  #picture = null; // { width, height, data: RGBA, name }
  #erase = false;
  #last = null;
  #cursor = null; // of the keyboard
  #changed;

  /** `changed()` is called when there is another picture, or another mask. */
  constructor(changed) {
    this.#changed = changed;
    const mask = $("mask");
    mask.addEventListener("pointerdown", (event) => {
      mask.setPointerCapture(event.pointerId);
      this.#last = null;
      this.#mark(this.#place(event));
    });
    mask.addEventListener("pointermove", (event) => {
      if (!mask.hasPointerCapture(event.pointerId)) return;
      for (const one of event.getCoalescedEvents?.() ?? [event]) this.#mark(this.#place(one));
    });
    mask.addEventListener("keydown", (event) => this.#key(event));
    mask.addEventListener("blur", () => this.#draw());
    for (const [id, erase] of [["brush", false], ["eraser", true]]) {
      $(id).onclick = () => {
        this.#erase = erase;
        $("brush").setAttribute("aria-pressed", !erase);
        $("eraser").setAttribute("aria-pressed", erase);
      };
    }
    $("clear").onclick = () => this.#clear();
    $("other").onclick = () => this.close();
    $("file").onchange = () => this.take($("file").files[0]);
    const drop = $("editor");
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      $("drop").classList.add("over");
    });
    drop.addEventListener("dragleave", () => $("drop").classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      $("drop").classList.remove("over");
      this.take(event.dataTransfer.files[0]);
    });
  }

  get picture() {
    return this.#picture;
  }

  /** 1 where the picture is made anew, [height, width]; null where nothing is marked. */
  get mask() {
    return this.#marked?.some(Boolean) ? this.#marked : null;
  }

  #marked = null;

  /** Puts a file on the workspace. */
  async take(file) {
    if (!file) return;
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      notice(`${file.name} is no picture that this browser reads: PNG, JPEG, WebP and AVIF are.`);
      return;
    }
    const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
    const width = Math.max(1, Math.round(bitmap.width * scale)), height = Math.max(1, Math.round(bitmap.height * scale));
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    if (scale < 1) notice(`${file.name} has ${bitmap.width} × ${bitmap.height} pixels. It is made smaller, ${width} × ${height}: a page edits ${LARGEST} a side at most.`);
    if (context.getImageData(0, 0, width, height).data.some((value, i) => i % 4 === 3 && value < 255)) {
      notice(`What is transparent in ${file.name} is taken as white.`);
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "white";
      context.fillRect(0, 0, width, height);
    }
    bitmap.close();
    this.set({ width, height, data: context.getImageData(0, 0, width, height).data, name: file.name });
  }

  /** Puts a picture { width, height, data: RGBA, name } on the workspace. */
  set(picture) {
    this.#picture = picture;
    this.#marked = new Uint8Array(picture.width * picture.height);
    this.#cursor = { x: picture.width / 2, y: picture.height / 2 };
    show($("source"), picture);
    Object.assign($("mask"), { width: picture.width, height: picture.height });
    $("workspace").firstElementChild.style.setProperty("--ratio", picture.width / picture.height);
    $("workspace").hidden = false;
    $("drop").hidden = true;
    this.#draw();
    this.#changed();
  }

  /** Marks what is white in a picture of the same size. */
  async takeMask(file) {
    const bitmap = await createImageBitmap(file), { width, height } = this.#picture;
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    this.#marked = context.getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 0).map((value) => +(value > 127));
    this.#draw();
    this.#changed();
  }

  close() {
    this.#picture = this.#marked = null;
    $("file").value = "";
    $("workspace").hidden = true;
    $("drop").hidden = false;
    this.#changed();
    $("file").focus();
  }

  get #radius() {
    return (Number($("brush-size").value) / 200) * Math.max(this.#picture.width, this.#picture.height);
  }

  #place(event) {
    const box = $("mask").getBoundingClientRect();
    return { x: ((event.clientX - box.left) / box.width) * this.#picture.width, y: ((event.clientY - box.top) / box.height) * this.#picture.height };
  }

  /** Discs along the line from the last place. */
  #mark(to, erase = this.#erase) {
    const from = this.#last ?? to, radius = this.#radius, { width, height } = this.#picture;
    const count = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(0.5, radius / 3)));
    for (let i = 0; i <= count; i++) {
      const x = from.x + ((to.x - from.x) * i) / count, y = from.y + ((to.y - from.y) * i) / count;
      for (let v = Math.max(0, Math.floor(y - radius)); v < Math.min(height, y + radius + 1); v++) {
        for (let u = Math.max(0, Math.floor(x - radius)); u < Math.min(width, x + radius + 1); u++) {
          if (Math.hypot(u + 0.5 - x, v + 0.5 - y) <= Math.max(radius, 0.75)) this.#marked[v * width + u] = +!erase;
        }
      }
    }
    this.#last = to;
    this.#draw();
    this.#changed();
  }

  #clear() {
    this.#marked.fill(0);
    this.#draw();
    this.#changed();
  }

  #key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!moves && event.key !== " " && event.key !== "Delete" && event.key !== "Backspace") return;
    event.preventDefault();
    if (moves) {
      const { width, height } = this.#picture, step = Math.max(1, this.#radius * (event.shiftKey ? 2 : 0.5));
      this.#cursor.x = Math.min(width, Math.max(0, this.#cursor.x + moves[0] * step));
      this.#cursor.y = Math.min(height, Math.max(0, this.#cursor.y + moves[1] * step));
      this.#draw();
      return;
    }
    this.#last = null;
    this.#mark({ ...this.#cursor }, event.key !== " ");
  }

  #draw() {
    const { width, height } = this.#picture ?? {};
    if (!width) return;
    const data = new Uint8ClampedArray(4 * width * height);
    this.#marked.forEach((value, i) => value && data.set([...MASK, 255], 4 * i));
    const context = $("mask").getContext("2d");
    context.putImageData(new ImageData(data, width, height), 0, 0);
    $("clear").disabled = !this.mask;
    if (!$("mask").matches(":focus-visible")) return;
    context.lineWidth = Math.max(1, width / 200);
    for (const [colour, radius] of [["white", this.#radius], ["black", this.#radius + context.lineWidth]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(this.#cursor.x, this.#cursor.y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
