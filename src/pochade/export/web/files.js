// The files of the page: what there is, how large, and with which hash; downloaded once, then kept by the browser.

const BASE = new URL(".", import.meta.url);
const RETRIES = 4;
const WAIT = 400; // milliseconds before the second try, twice as long before each further one

/** What went wrong, in a sentence for whoever uses the page. */
export class PageError extends Error {}

/** The name of the page's cache: pages in other folders of a host have their own. */
export const cacheName = (scope) => `pochade:${new URL(scope).pathname}`;

/** Where a file is kept: with its hash, so that a newer page takes no older file. */
export const keyOf = (path, sha256, base = BASE) => new URL(`${path}?${sha256.slice(0, 16)}`, base).href;

export const hex = (buffer) => Array.from(new Uint8Array(buffer), (b) => b.toString(16).padStart(2, "0")).join("");

async function read(path) {
  const response = await fetch(new URL(path, BASE)).catch(() => null);
  if (!response?.ok) throw new PageError(`${path} cannot be read: the page was not copied whole, or you are offline.`);
  return response.json().catch(() => {
    throw new PageError(`${path} is damaged: it is no JSON.`);
  });
}

export class Files {
  #table;
  #cache;
  #notice;

  constructor({ version, files }, cache, notice) {
    this.version = version;
    this.#table = files;
    this.#cache = cache;
    this.#notice = notice;
  }

  /** Reads `files.json`. `notice(text)` is called where something works, but not as it should. */
  static async open(notice = () => {}) {
    const list = await read("files.json");
    let cache = null;
    try {
      cache = await self.caches.open(cacheName(BASE));
    } catch {
      notice("This browser keeps no files for this page: every visit downloads the model again.");
    }
    return new Files(list, cache, notice);
  }

  /** Bytes that remain to be downloaded of some files. */
  async missing(paths) {
    const kept = await Promise.all(paths.map((path) => this.#cache?.match(this.#key(path))));
    return paths.reduce((sum, path, i) => sum + (kept[i] ? 0 : this.#table[path].bytes), 0);
  }

  sha256(path) {
    return this.#table[path].sha256;
  }

  json = read;

  /** The content of a file, checked: from the browser's cache, else from the server. `onBytes(count)` as they arrive. */
  async load(path, onBytes = () => {}) {
    if (!(path in this.#table)) throw new PageError(`${path} is not part of this page.`);
    // One tab downloads, the others wait and find the file kept.
    const take = async () => (await this.#kept(path)) ?? this.#fetched(path, onBytes);
    return navigator.locks ? navigator.locks.request(this.#key(path), take) : take();
  }

  #key(path) {
    return keyOf(path, this.#table[path].sha256);
  }

  async #kept(path) {
    const kept = await this.#cache?.match(this.#key(path));
    if (!kept) return null;
    const content = new Uint8Array(await kept.arrayBuffer());
    if (await this.#isWhole(path, content)) return content;
    await this.#cache.delete(this.#key(path));
    return null;
  }

  async #fetched(path, onBytes) {
    const content = await this.#download(path, onBytes);
    if (!this.#cache) return content;
    try {
      await this.#cache.put(this.#key(path), new Response(content));
    } catch {
      this.#cache = null;
      this.#notice("The browser's storage is full or refused: the model is downloaded again at the next visit.");
    }
    return content;
  }

  async #download(path, onBytes) {
    const { bytes, sha256, gzip } = this.#table[path];
    const url = new URL(`${path}${gzip ? ".gz" : ""}?${sha256.slice(0, 16)}`, BASE);
    let chunks = [], at = 0, failure = "";
    for (let attempt = 0; attempt < RETRIES; attempt++) {
      if (attempt) await new Promise((resolve) => setTimeout(resolve, WAIT * 2 ** (attempt - 1)));
      const resumed = at > 0;
      try {
        const response = await fetch(url, { headers: resumed ? { Range: `bytes=${at}-` } : {}, cache: "no-store" });
        if (response.status === 404) throw new PageError(`${path} is missing on the server.`);
        if (!response.ok) {
          failure = `the server answers ${response.status}`;
          continue;
        }
        if (resumed && response.status !== 206) {
          onBytes(-Math.min(at, bytes));
          [chunks, at] = [[], 0];
        }
        const reader = response.body.getReader();
        for (let next = await reader.read(); !next.done; next = await reader.read()) {
          chunks.push(next.value);
          onBytes(Math.min(at + next.value.length, bytes) - Math.min(at, bytes));
          at += next.value.length;
        }
      } catch (error) {
        if (error instanceof PageError) throw error;
        failure = navigator.onLine === false ? "you are offline" : "the connection broke";
        continue;
      }
      if (at < bytes) {
        failure = `it ended after ${at} of ${bytes} bytes`;
        continue;
      }
      const content = await unpacked(chunks);
      if (content && (await this.#isWhole(path, content))) return content;
      if (!resumed) throw new PageError(`${path} on the server is altered or damaged: its hash is another.`);
      failure = "the parts that arrived do not fit together";
      onBytes(-Math.min(at, bytes));
      [chunks, at] = [[], 0];
    }
    throw new PageError(`${path} could not be downloaded: ${failure}.`);
  }

  async #isWhole(path, content) {
    const { size, sha256 } = this.#table[path];
    if (content.length !== size) return false;
    if (!self.crypto?.subtle) return true; // a page over plain http has no hashes, and keeps no files either
    return hex(await crypto.subtle.digest("SHA-256", content)) === sha256;
  }
}

/** Servers may have unpacked a file on the way already. Null where it is damaged. */
async function unpacked(chunks) {
  const blob = new Blob(chunks);
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (start[0] !== 0x1f || start[1] !== 0x8b) return new Uint8Array(await blob.arrayBuffer());
  try {
    const stream = blob.stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    return null;
  }
}
