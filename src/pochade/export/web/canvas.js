// From a picture of any size to the one that the graphs take, and back. Pictures are { width, height, data }: Float32Array
// [3, H, W] in [0, 1]; masks are Float32Array [H, W] in {0, 1}.

export const HOLE = 128 / 255; // the grey of what is to be inpainted, in the source that a model trained for it is shown
const CROP = 1.5; // side of what is sampled around a mask, as a multiple of the longer side of what the mask marks

const cubic = (x) => {
  x = Math.abs(x);
  return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
};

/** For each of `to` places along an axis: the first of the `from` values that count, and their weights. */
function weights(from, to) {
  const scale = from / to, wide = Math.max(scale, 1), reach = 2 * wide;
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5)), last = Math.min(from, Math.trunc(centre + reach + 0.5));
    const taken = Float64Array.from({ length: last - first }, (_, j) => cubic((first + j - centre + 0.5) / wide));
    const sum = taken.reduce((a, b) => a + b, 0);
    return [first, taken.map((w) => w / sum)];
  });
}

/** Another size: bicubic, antialiased where it shrinks. */
export function resample(picture, width, height) {
  if (picture.width === width && picture.height === height) return picture;
  const { width: w, height: h, data } = picture;
  const across = weights(w, width), down = weights(h, height);
  const wide = new Float32Array(3 * h * width), out = new Float32Array(3 * height * width);
  for (let row = 0; row < 3 * h; row++) {
    for (let x = 0; x < width; x++) {
      const [first, taken] = across[x];
      let sum = 0;
      for (let j = 0; j < taken.length; j++) sum += taken[j] * data[row * w + first + j];
      wide[row * width + x] = sum;
    }
  }
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < height; y++) {
      const [first, taken] = down[y];
      for (let x = 0; x < width; x++) {
        let sum = 0;
        for (let j = 0; j < taken.length; j++) sum += taken[j] * wide[(c * h + first + j) * width + x];
        out[(c * height + y) * width + x] = Math.min(1, Math.max(0, sum));
      }
    }
  }
  return { width, height, data: out };
}

/** Where a picture lies while it is sampled anew: in its own proportions, continued by the colours of its border. */
export class Canvas {
  constructor(width, height, outerWidth, outerHeight) {
    const scale = Math.min(outerWidth / width, outerHeight / height);
    const inside = (side, outer) => Math.min(outer, Math.max(1, roundEven(side * scale)));
    Object.assign(this, { width, height, outerWidth, outerHeight });
    this.innerWidth = inside(width, outerWidth);
    this.innerHeight = inside(height, outerHeight);
    this.left = (outerWidth - this.innerWidth) >> 1;
    this.top = (outerHeight - this.innerHeight) >> 1;
  }

  /** How many pixels of the picture are one of the canvas, along a side. */
  get magnification() {
    return Math.max(this.width / this.innerWidth, this.height / this.innerHeight);
  }

  put(picture) {
    const inner = resample(picture, this.innerWidth, this.innerHeight);
    return { width: this.outerWidth, height: this.outerHeight, data: this.#padded(inner.data, 3) };
  }

  /** A mask of the picture -> one of the canvas [outerHeight, outerWidth], 1 where any pixel is. */
  putMask(mask) {
    const inner = new Float32Array(this.innerWidth * this.innerHeight);
    const span = (i, given, taken) => [Math.floor((i * given) / taken), Math.ceil(((i + 1) * given) / taken)];
    for (let y = 0; y < this.innerHeight; y++) {
      const [y0, y1] = span(y, this.height, this.innerHeight);
      for (let x = 0; x < this.innerWidth; x++) {
        const [x0, x1] = span(x, this.width, this.innerWidth);
        let most = 0;
        for (let v = y0; v < y1; v++) for (let u = x0; u < x1; u++) most = Math.max(most, mask[v * this.width + u]);
        inner[y * this.innerWidth + x] = most;
      }
    }
    return this.#padded(inner, 1);
  }

  /** The canvas -> a picture of the size that it was made of. */
  take({ data }) {
    const inner = new Float32Array(3 * this.innerWidth * this.innerHeight);
    for (let row = 0; row < 3 * this.innerHeight; row++) {
      const c = Math.floor(row / this.innerHeight), y = row % this.innerHeight;
      const from = (c * this.outerHeight + this.top + y) * this.outerWidth + this.left;
      inner.set(data.subarray(from, from + this.innerWidth), row * this.innerWidth);
    }
    // Rows first, as the pipelines do: what goes beyond [0, 1] is cut after each direction.
    const rows = resample({ width: this.innerWidth, height: this.innerHeight, data: inner }, this.innerWidth, this.height);
    return resample(rows, this.width, this.height);
  }

  #padded(data, channels) {
    const out = new Float32Array(channels * this.outerWidth * this.outerHeight);
    const within = (i, size) => Math.min(size - 1, Math.max(0, i));
    let at = 0;
    for (let c = 0; c < channels; c++) {
      for (let y = 0; y < this.outerHeight; y++) {
        const row = (c * this.innerHeight + within(y - this.top, this.innerHeight)) * this.innerWidth;
        for (let x = 0; x < this.outerWidth; x++) out[at++] = data[row + within(x - this.left, this.innerWidth)];
      }
    }
    return out;
  }
}

const roundEven = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** A mask [height, width] -> cells of `side` pixels a side, 1 where any pixel in them is. */
export function cellsOf(mask, width, height, side) {
  const columns = width / side, cells = new Float32Array(columns * (height / side));
  for (let i = 0; i < mask.length; i++) {
    const at = Math.floor(Math.floor(i / width) / side) * columns + Math.floor((i % width) / side);
    cells[at] = Math.max(cells[at], mask[i]);
  }
  return cells;
}

/** A part of a picture, in pixels. */
export class Box {
  /** The square around what a mask marks in which it is sampled, at least `least` a side; moved into the picture, and
   * cut where that is smaller. */
  constructor(mask, width, height, least) {
    let [left, right, top, bottom] = [width, -1, height, -1];
    mask.forEach((value, i) => {
      if (!value) return;
      const x = i % width, y = Math.floor(i / width);
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
    });
    const side = Math.max(least, roundEven(CROP * Math.max(right - left + 1, bottom - top + 1)));
    this.whole = { width, height };
    this.width = Math.min(side, width);
    this.height = Math.min(side, height);
    const start = (first, last, taken, length) => Math.min(Math.max(0, Math.floor((first + last + 1 - taken) / 2)), length - taken);
    this.left = start(left, right, this.width, width);
    this.top = start(top, bottom, this.height, height);
  }

  /** That part of planes [C, H, W]. */
  of(data) {
    const out = new Float32Array((data.length / (this.whole.width * this.whole.height)) * this.width * this.height);
    this.#eachRow(out, (from, to) => out.set(data.subarray(from, from + this.width), to));
    return out;
  }

  /** Planes [C, H, W] with `part` in that place. */
  with(data, part) {
    const out = data.slice();
    this.#eachRow(part, (to, from) => out.set(part.subarray(from, from + this.width), to));
    return out;
  }

  #eachRow(part, use) {
    for (let row = 0; row < part.length / this.width; row++) {
      const channel = Math.floor(row / this.height), y = this.top + (row % this.height);
      use((channel * this.whole.height + y) * this.whole.width + this.left, row * this.width);
    }
  }
}

/** How much of the new picture is shown: 0 outside the mask, rising within it over `seam` pixels, or over half of how
 * deep the mask is where that is less. */
export function insideSeam(mask, width, height, seam) {
  const depth = new Float32Array(mask.length);
  let deepest = 0;
  for (let rest = mask; deepest < 2 * seam && rest.some((v) => v > 0); deepest++) {
    rest.forEach((value, i) => (depth[i] += value));
    rest = eroded(rest, width, height);
  }
  const steps = Math.min(seam, deepest >> 1);
  return depth.map((value) => Math.min(value, steps + 1) / (steps + 1));
}

/** Without the pixels that touch what is outside the mask; beyond the picture nothing is. */
function eroded(mask, width, height) {
  return mask.map((value, i) => {
    const y = Math.floor(i / width), x = i % width;
    for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
      for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) value = Math.min(value, mask[v * width + u]);
    }
    return value;
  });
}
