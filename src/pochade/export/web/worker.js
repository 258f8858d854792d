// The model, away from the page: messages in, steps and pictures out.

import { Files, PageError } from "./files.js";
import { Model, neededGraphs } from "./model.js";
import { chooseBuild, openRuntime } from "./runtime.js";

class Cancelled extends Error {
  cancelled = true;
}

const warmed = (manifest) => neededGraphs(manifest).filter((name) => name !== "text_encoder");
const cancelled = new Set();
let opened = null; // a promise of the model
let queue = Promise.resolve();
let waiting = 0;

const say = (message, transfer = []) => self.postMessage(message, transfer);
const notice = (text) => say({ type: "notice", text });
const explain = (error) => {
  if (error instanceof PageError) return error.message;
  if (error instanceof RangeError || /memory|alloc/i.test(String(error?.message))) {
    return "This device has too little memory free for the model. Close other tabs and load the page again.";
  }
  return `Something failed that should not: ${error?.message ?? error}`;
};

/** Lets messages in: a request to cancel, above all. */
const breathe = () => new Promise((resolve) => setTimeout(resolve));

async function open({ backend, threads, providers }) {
  const files = await Files.open(notice);
  const manifest = await files.json("model/manifest.json");
  const build = await chooseBuild({ gpu: backend !== "wasm", threads });
  const needed = [build.wasm, ...neededGraphs(manifest).map((name) => `model/${manifest.graphs[name].file}`)];
  let total = await files.missing(needed), received = 0;
  const load = async (path) => {
    if (!needed.includes(path)) total += await files.missing([path]);
    return files.load(path, (count) => say({ type: "download", received: (received += count), total }));
  };
  say({ type: "download", received, total });
  const ort = await openRuntime(build, await load(build.wasm));
  const remembered = providers?.version === files.version ? providers.chosen : null;
  const known = backend === "webgpu" ? Object.fromEntries(warmed(manifest).map((name) => [name, "webgpu"])) : remembered;
  const model = new Model(ort, manifest, load, (build.gpu && known) || {});
  await model.prepare();
  say({ type: "ready", version: ort.env.versions.web, threads: build.threads, gpu: build.gpu && Object.values(known ?? {}).includes("webgpu") });
  queue = queue.then(() => warmUp(model, build, known, files.version)).catch((error) => notice(explain(error)));
  return model;
}

/** While nobody waits for a picture. */
async function warmUp(model, build, known, version) {
  const pause = async () => {
    await breathe();
    if (waiting) throw new Cancelled();
  };
  try {
    if (build.gpu && !known) {
      const chosen = await model.compareProviders(warmed(model.manifest), pause);
      say({ type: "providers", providers: { version, chosen } });
    }
    await model.warmUp(warmed(model.manifest), pause);
    say({ type: "speed", times: model.times });
  } catch (error) {
    if (!(error instanceof Cancelled)) throw error;
  }
}

async function generate(id, request) {
  const pause = async () => {
    await breathe();
    if (cancelled.delete(id)) throw new Cancelled();
  };
  const step = (taken, total, picture) => say({ type: "step", id, taken, total, picture }, picture ? [picture.data.buffer] : []);
  try {
    const model = await opened;
    await pause();
    const picture = await model.sample(request, { pause, step });
    say({ type: "speed", times: model.times });
    say({ type: "picture", id, picture }, [picture.data.buffer]);
  } catch (error) {
    say(error instanceof Cancelled ? { type: "cancelled", id } : { type: "error", id, text: explain(error) });
  } finally {
    cancelled.delete(id);
    waiting--;
  }
}

self.onmessage = ({ data }) => {
  if (data.type === "cancel") cancelled.add(data.id);
  if (data.type === "generate") {
    waiting++;
    queue = queue.then(() => generate(data.id, data.request));
  }
  if (data.type === "open") {
    opened = open(data);
    opened.catch((error) => say({ type: "broken", text: explain(error) }));
  }
};
