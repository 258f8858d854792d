// Pictures as PNG files with their recipe inside: what `pochade generate --like FILE` reads.

export const KEYWORD = "pochade";
const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

function chunk(name, data) {
  const out = new Uint8Array(data.length + 12), view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(new TextEncoder().encode(name), 4);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

/** JSON in one line of ASCII. */
export const asciiJson = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** A PNG of RGBA pixels whose alpha is left out, `channels` 3, or of their first channel alone, 1. */
export async function encodePng({ width, height, data }, recipe = null, channels = 3) {
  const row = channels * width + 1, raw = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    raw[y * row] = 1; // each byte less the one of the pixel to its left
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const at = 4 * (y * width + x) + c;
        raw[y * row + 1 + channels * x + c] = data[at] - (x ? data[at - 4] : 0);
      }
    }
  }
  const packed = new Blob([raw]).stream().pipeThrough(new CompressionStream("deflate"));
  const head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, channels === 3 ? 2 : 0], 8);
  const text = recipe && chunk("tEXt", new TextEncoder().encode(`${KEYWORD}\0${asciiJson(recipe)}`));
  const parts = [chunk("IHDR", head), ...(text ? [text] : []), chunk("IDAT", new Uint8Array(await new Response(packed).arrayBuffer()))];
  return new Blob([new Uint8Array(SIGNATURE), ...parts, chunk("IEND", new Uint8Array())], { type: "image/png" });
}

/** A file name from a prompt: lower-case words joined by hyphens. */
export function slug(prompt, length = 48) {
  const words = prompt.toLowerCase().replace(/[^\p{L}\p{N}_]+/gu, "-").replace(/^[-_]+|[-_]+$/g, "");
  return words.slice(0, length).replace(/[-_]+$/, "") || "picture";
}
