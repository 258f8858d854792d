// Keeps the page for use without a network, and isolates it so that WebAssembly may use threads on any host.

const VERSION = "@VERSION@"; // the hash of files.json, which has those of all files
const BASE = new URL("./", self.location.href);
const CACHE = `pochade:${BASE.pathname}`;
const POLICY = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

const keyOf = (path, sha256) => new URL(`${path}?${sha256.slice(0, 16)}`, BASE).href;
const hex = (buffer) => Array.from(new Uint8Array(buffer), (b) => b.toString(16).padStart(2, "0")).join("");

/** The bytes of a file on the server and its kind, its hash checked: a copy in the making is not taken. */
async function fetched(path, sha256) {
  const response = await fetch(new URL(path, BASE), { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  const content = await response.arrayBuffer();
  if (hex(await crypto.subtle.digest("SHA-256", content)) !== sha256) throw new Error(`${path}: another hash`);
  return new Response(content, { headers: { "Content-Type": response.headers.get("Content-Type") ?? "application/octet-stream" } });
}

let table = null; // path -> { sha256, gzip }, of this version

async function files() {
  if (!table) {
    const kept = await (await caches.open(CACHE)).match(keyOf("files.json", VERSION));
    if (kept) table = (await kept.json()).files;
  }
  return table ?? {};
}

async function install() {
  const cache = await caches.open(CACHE);
  const list = await fetched("files.json", VERSION);
  const shell = Object.entries((await list.clone().json()).files).filter(([, file]) => !file.gzip);
  await Promise.all(
    shell.map(async ([path, { sha256 }]) => {
      const key = keyOf(path, sha256);
      if (!(await cache.match(key))) await cache.put(key, await fetched(path, sha256));
    }),
  );
  await cache.put(keyOf("files.json", VERSION), list);
}

/** What earlier versions kept, and this one does not have. */
async function clean() {
  const cache = await caches.open(CACHE);
  const now = new Set([keyOf("files.json", VERSION), ...Object.entries(await files()).map(([path, { sha256 }]) => keyOf(path, sha256))]);
  await Promise.all((await cache.keys()).filter(({ url }) => !now.has(url)).map((request) => cache.delete(request)));
  await self.clients.claim();
}

function isolated(response) {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(POLICY)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

async function answer(request, path) {
  const sha256 = path === "files.json" ? VERSION : (await files())[path]?.sha256;
  const kept = sha256 && (await (await caches.open(CACHE)).match(keyOf(path, sha256)));
  return isolated(kept ?? (await fetch(request)));
}

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(clean()));
self.addEventListener("message", ({ data }) => data === "activate" && self.skipWaiting());
self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== BASE.origin || !url.pathname.startsWith(BASE.pathname)) return;
  const path = decodeURIComponent(url.pathname.slice(BASE.pathname.length)) || "index.html";
  if (path.endsWith(".gz")) return; // the page downloads and keeps these itself
  event.respondWith(answer(event.request, path));
});
