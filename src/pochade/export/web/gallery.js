// Pictures that the browser keeps, newest first, in IndexedDB; where that is refused, as long as the page is open.

const DATABASE = `pochade:${new URL(".", import.meta.url).pathname}`;
const STORE = "pictures";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Gallery {
  #database = null;
  #memory = new Map();
  #tabs = "BroadcastChannel" in self ? new BroadcastChannel(DATABASE) : null;

  /** `changed()` is called when another tab adds or deletes a picture, `notice(text)` where pictures cannot be kept. */
  static async open(changed, notice) {
    const gallery = new Gallery();
    if (gallery.#tabs) gallery.#tabs.onmessage = changed;
    gallery.notice = notice;
    try {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
      gallery.#database = await done(request);
      gallery.#database.onversionchange = () => gallery.#database.close();
    } catch {
      notice("This browser keeps no pictures for this page: save those that you like.");
    }
    return gallery;
  }

  /** Adds { blob, recipe, source?, mask? }; the record with its id and time. */
  async add(picture) {
    const record = { id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, created: Date.now(), ...picture };
    try {
      await this.#run("readwrite", (store) => store.put(record));
    } catch {
      this.#memory.set(record.id, record);
      this.notice("The browser's storage is full or refused: this picture stays until the page is closed. Save it if you like it.");
    }
    this.#tabs?.postMessage("changed");
    return record;
  }

  async all() {
    const kept = this.#database ? await this.#run("readonly", (store) => store.getAll()).catch(() => []) : [];
    return [...kept, ...this.#memory.values()].sort((a, b) => b.created - a.created);
  }

  async remove(id) {
    this.#memory.delete(id);
    if (this.#database) await this.#run("readwrite", (store) => store.delete(id)).catch(() => {});
    this.#tabs?.postMessage("changed");
  }

  async #run(mode, use) {
    if (!this.#database) throw new Error("no database");
    const transaction = this.#database.transaction(STORE, mode);
    const result = done(use(transaction.objectStore(STORE)));
    result.catch(() => {}); // the transaction says it, too
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
    return result;
  }
}
