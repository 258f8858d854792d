// A bundle as a model: prompts and pictures in, pictures out. Graphs are loaded when they are first needed.

import { Box, Canvas, HOLE, cellsOf, insideSeam } from "./canvas.js";
import { PageError } from "./files.js";
import { Noise } from "./noise.js";
import { openSession } from "./runtime.js";
import { guided, noiseTimes, rowsAt, sample } from "./sampler.js";
import { fitted, makeTokenizer } from "./tokenizer.js";

const FORMAT = 1;
const EMOJI = "emoji.json";
const TASKS = ["generate", "edit", "inpaint", "super_resolution"];
const GUIDED = ["tokens", "mask", "pooled", "class_label", "image_prompt", "control"]; // absent in the second row of guidance
const SOURCE = ["source", "source_mask", "task"]; // and in the third
const ARRAYS = { float32: Float32Array, int64: BigInt64Array, bool: Uint8Array };
const WITHOUT_SOURCE = "denoiser_without_source"; // where samples without a source have a graph of their own
const PREVIEW_SHARE = 0.35; // of the time of a picture that previews may take
const KEPT_PROMPTS = 32;
const MOSTLY = 0.5; // share of the words of a prompt that are unknown, from which on it is said

/** Refuses a manifest that this page cannot go by. */
export function checkManifest(manifest) {
  if (!Number.isInteger(manifest?.format)) throw new PageError("model/manifest.json is damaged: it has no format.");
  if (manifest.format > FORMAT) {
    throw new PageError(`The model is of format ${manifest.format}, this page reads up to ${FORMAT}: export it again with its page.`);
  }
  return manifest;
}

/** The graphs that a new picture needs, in the order of their use. */
export const neededGraphs = ({ graphs }) =>
  ["text_encoder", graphs[WITHOUT_SOURCE] ? WITHOUT_SOURCE : "denoiser", "decoder"].filter((name) => graphs[name]);

const parsed = (content) => JSON.parse(new TextDecoder().decode(content));
const length = (shape) => shape.reduce((product, side) => product * side, 1);
const none = (input) => {
  const values = new ARRAYS[input.dtype](length(input.shape.slice(1)));
  return values.fill(input.dtype === "int64" ? BigInt(input.absent) : input.absent);
};
const without = (values, names) => Object.fromEntries(Object.entries(values).filter(([name]) => !names.includes(name)));
const isFinite = (values) => values.every((value) => Number.isFinite(value));

export class Model {
  #sessions = {};
  #encoded = new Map();
  #tokenize = null;
  #unknown = null; // the id of what is not in the vocabulary
  times = {}; // graph -> milliseconds that its last call took for each row

  /** `providers` says for each graph whether `webgpu` or `wasm` runs it; `load(path)` gives the content of a file. */
  constructor(ort, manifest, load, providers = {}) {
    Object.assign(this, { ort, manifest: checkManifest(manifest), load, providers });
  }

  get steps() {
    return this.manifest.defaults.steps;
  }

  /** Loads what every picture needs, or a graph by its name. */
  async prepare(names = neededGraphs(this.manifest)) {
    for (const name of names) await this.#session(name);
    const { text } = this.manifest;
    if (text?.tokenizer && !this.#tokenize) {
      const content = await this.load(`model/${text.tokenizer}`);
      const emoji = EMOJI in this.manifest.files ? parsed(await this.load(`model/${EMOJI}`)) : {};
      const json = parsed(content);
      this.#tokenize = makeTokenizer(json, emoji);
      this.#unknown = json.model.vocab[json.model.unk_token] ?? null;
    }
  }

  /** Runs each graph twice: the first call is slow while the browser compiles. */
  async warmUp(names, pause) {
    for (const name of names) {
      for (let i = 0; i < 2; i++) {
        await pause();
        await this.#run(name, this.#nothing(name));
      }
    }
  }

  /** Which of both providers runs each graph faster, timed here; it is taken from now on. */
  async compareProviders(names, pause) {
    const chosen = {};
    for (const name of names) {
      const times = {};
      for (const provider of ["wasm", "webgpu"]) {
        await this.#release(name);
        this.providers[name] = provider;
        try {
          await this.warmUp([name], pause);
          times[provider] = this.times[name === WITHOUT_SOURCE ? "denoiser" : name];
        } catch (error) {
          if (provider === "wasm" || error.cancelled) throw error;
          times[provider] = Infinity; // an operator that the GPU does not have
        }
      }
      chosen[name] = times.webgpu < times.wasm ? "webgpu" : "wasm";
      if (chosen[name] === "wasm") await this.#release(name);
      this.providers[name] = chosen[name];
    }
    return chosen;
  }

  /**
   * One picture { width, height, data: RGBA, notes } of a request { task, prompt, seed, steps, guidance, interval,
   * strength, instruction, imageGuidance, source, mask }; `notes` are sentences about what of the prompts is not read. `hooks.step(taken, total, picture or null)` is called after
   * each step, `hooks.pause()` is awaited before, and may throw to cancel.
   */
  async sample(request, hooks) {
    const [text, negative] = [await this.#prompt(request.prompt), await this.#prompt(request.negativePrompt ?? "")];
    const picture = request.task === "generate" ? await this.#generated(request, text, negative, hooks) : await this.#edited(request, text, negative, hooks);
    return { ...picture, notes: [...notesOf("The prompt", text), ...notesOf("What is to be left out", negative)] };
  }

  async #generated(request, text, negative, hooks) {
    const { width, height } = this.manifest;
    const z = await this.#sampled(request, { text: text.values, negative: negative.values, source: {}, start: 1 }, hooks);
    return toPicture({ width, height, data: await this.#decoded(z) });
  }

  async #edited(request, text, negative, hooks) {
    const { manifest } = this, { width, height } = manifest, side = manifest.latents.downsampling;
    const whole = toPlanes(request.source), mask = request.mask && Float32Array.from(request.mask);
    const box = mask && new Box(mask, whole.width, whole.height, Math.max(width, height));
    const source = box ? { width: box.width, height: box.height, data: box.of(whole.data) } : whole;
    const canvas = new Canvas(source.width, source.height, width, height);
    const shown = canvas.put(source), latents = await this.#latents(shown);
    const marked = box?.of(mask), hole = marked && canvas.putMask(marked);
    const cells = hole && cellsOf(hole, width, height, side);
    const task = request.instruction ? "edit" : request.task === "inpaint" ? "inpaint" : null;
    const given = {};
    if (manifest.trained_tasks.includes(task)) {
      given.source = latents;
      if (task === "inpaint") {
        const grey = shown.data.map((value, i) => (hole[i % hole.length] > 0 ? HOLE : value));
        given.source = await this.#latents({ ...shown, data: grey });
      }
      given.source_mask = cells ?? new Float32Array(latents.length / manifest.latents.channels);
      given.task = BigInt64Array.of(BigInt(TASKS.indexOf(task)));
    }
    const conditioning = { text: text.values, negative: negative.values, source: given, start: request.strength };
    const z = await this.#sampled(request, conditioning, hooks, latents, cells);
    const edited = canvas.take({ width, height, data: await this.#decoded(z) });
    if (!hole) return toPicture(edited);
    const seam = insideSeam(marked, box.width, box.height, Math.ceil(canvas.magnification));
    const inside = source.data.map((value, i) => value + seam[i % seam.length] * (edited.data[i] - value));
    return toPicture({ ...whole, data: box.with(whole.data, inside) });
  }

  async #sampled(request, { text, negative, source, start }, hooks, latents = null, mask = null) {
    const { sampling, graphs, depths, defaults } = this.manifest;
    const graph = depths[defaults.depth] ?? "denoiser", begun = performance.now();
    const scale = request.guidance, imageScale = request.instruction ? request.imageGuidance : null;
    const given = { ...text, ...source };
    const branches = [given, { ...without(given, GUIDED), ...negative }, { ...without(given, [...GUIDED, ...SOURCE]), ...negative }];
    const rows = branches.slice(0, imageScale !== null ? 3 : scale === 1 ? 1 : 2);
    const inputs = graphs[graph].inputs.filter((input) => input.absent !== null);
    const fixed = inputs.filter((input) => input.name !== "state").map((input) => [input.name, rows.map((row) => row[input.name] ?? none(input))]);
    const stateInput = inputs.find((input) => input.name === "state");
    let state = stateInput && [none(stateInput)], previews = 0;
    const { channels, height, width } = this.manifest.latents, count = channels * height * width;
    const denoise = async (z, t) => {
      await hooks.pause();
      const each = rows.slice(0, rowsAt(t, rows.length, request.interval));
      const split = (all) => each.map((_, i) => all.subarray((i * all.length) / each.length, ((i + 1) * all.length) / each.length));
      const values = { latents: each.map(() => z), t: each.map(() => Float32Array.of(t)) };
      for (const [name, given] of fixed) values[name] = given.slice(0, each.length);
      if (state) values.state = each.map((_, i) => state[i] ?? state[0]);
      const { velocity, next_state } = await this.#denoised(graph, values);
      if (state) state = split(next_state);
      return guided(split(velocity), scale, imageScale);
    };
    const onStep = async (taken, total, predicted) => {
      let picture = null;
      const now = performance.now();
      if (taken < total && previews + (this.times.decoder ?? 0) <= PREVIEW_SHARE * (now - begun)) {
        picture = toPicture({ width: this.manifest.width, height: this.manifest.height, data: await this.#decoded(predicted) });
        previews += performance.now() - now;
      }
      hooks.step(taken, total, picture);
    };
    const times = noiseTimes(sampling, request.steps, start);
    const z = await sample({ denoise, method: sampling.method, times, noise: new Noise(request.seed), count, source: latents, mask, onStep });
    if (!isFinite(z)) throw new PageError("The model gave no picture (its numbers are not finite). Try another seed, or less guidance.");
    await hooks.pause();
    return z;
  }

  /** The outputs of a denoiser; rows without a source, which are the last ones, by the graph that takes none. */
  async #denoised(graph, values) {
    if (!this.manifest.graphs[WITHOUT_SOURCE]) return this.#run(graph, values);
    const there = values.source.filter((row, i) => row.some(Boolean) || values.source_mask[i].some(Boolean)).length;
    const cut = (from, to) => Object.fromEntries(Object.entries(values).map(([name, rows]) => [name, rows.slice(from, to)]));
    const parts = [];
    if (there) parts.push(await this.#run(graph, cut(0, there)));
    if (there < values.latents.length) parts.push(await this.#run(WITHOUT_SOURCE, cut(there)));
    if (parts.length === 1) return parts[0];
    return Object.fromEntries(Object.keys(parts[0]).map((name) => [name, Float32Array.from(parts.flatMap((part) => [...part[name]]))]));
  }

  /**
   * The row of a prompt: { values, cut, unknown }, `cut` being the tokens beyond what the text encoder reads, and `unknown`
   * the share of its words that are not in the vocabulary.
   */
  async #prompt(prompt) {
    const { text } = this.manifest;
    if (!text || !prompt.trim()) return { values: {}, cut: 0, unknown: 0 };
    if (text.classes.length) {
      const plain = (name) => name.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
      const label = text.classes.findIndex((name) => plain(name) === plain(prompt));
      if (label < 0) throw new PageError(`This model knows ${text.classes.join(", ")}; it does not know “${prompt}”.`);
      return { values: { class_label: BigInt64Array.of(BigInt(label)) }, cut: 0, unknown: 0 };
    }
    if (!this.#encoded.has(prompt)) {
      await this.prepare(["text_encoder"]);
      const all = this.#tokenize(prompt), words = all.length - this.#tokenize("").length;
      const unknown = words && all.filter((id) => id === this.#unknown).length / words;
      const { ids, mask, cut } = fitted(all, text);
      const { tokens, pooled } = await this.#run("text_encoder", { ids: [ids], mask: [mask] });
      if (this.#encoded.size >= KEPT_PROMPTS) this.#encoded.delete(this.#encoded.keys().next().value);
      this.#encoded.set(prompt, { values: { tokens, mask, pooled }, cut, unknown });
    }
    return this.#encoded.get(prompt);
  }

  async #latents({ data }) {
    return (await this.#run("encoder", { images: [data.map((value) => 2 * value - 1)] })).latents;
  }

  /** Planes [3, H, W] in [0, 1]. */
  async #decoded(z) {
    const { images } = await this.#run("decoder", { latents: [z] });
    return images.map((value) => Math.min(1, Math.max(0, value / 2 + 0.5)));
  }

  #nothing(name) {
    const batch = name.startsWith("denoiser") && this.manifest.defaults.guidance !== 1 ? 2 : 1;
    return Object.fromEntries(
      this.manifest.graphs[name].inputs.map((input) => [input.name, Array(batch).fill(none({ ...input, absent: input.absent ?? 0 }))]),
    );
  }

  /** The outputs of a graph by name, of inputs by name: rows of numbers each. */
  async #run(name, values) {
    const session = await this.#session(name), feeds = {};
    for (const { name: input, dtype, shape } of this.manifest.graphs[name].inputs) {
      const rows = values[input], all = new ARRAYS[dtype](rows.length * rows[0].length);
      rows.forEach((row, i) => all.set(row, i * row.length));
      feeds[input] = new this.ort.Tensor(dtype, all, [rows.length, ...shape.slice(1)]);
    }
    const start = performance.now(), outputs = await session.run(feeds), found = {};
    for (const [output, tensor] of Object.entries(outputs)) {
      found[output] = await tensor.getData();
      tensor.dispose();
    }
    this.times[name === WITHOUT_SOURCE ? "denoiser" : name] = (performance.now() - start) / Object.values(values)[0].length;
    return found;
  }

  async #session(name) {
    const graph = this.manifest.graphs[name];
    if (!graph) throw new PageError(`The model has no ${name}.`);
    // The content goes as soon as the session has its own copy: phones have little memory.
    this.#sessions[name] ??= this.load(`model/${graph.file}`).then((content) => openSession(this.ort, content, this.providers[name] ?? "wasm"));
    try {
      return await this.#sessions[name];
    } catch (error) {
      delete this.#sessions[name];
      throw error;
    }
  }

  async #release(name) {
    const session = await this.#sessions[name]?.catch(() => null);
    delete this.#sessions[name];
    await session?.release();
  }
}

/** What is to be said of a prompt, as `pochade run` warns. */
function notesOf(name, { cut, unknown }) {
  const notes = [];
  if (cut) notes.push(`${name} is longer than the model reads: its last ${cut} tokens are left out.`);
  if (unknown >= MOSTLY) notes.push(`${name} is mostly unknown to the model: others like it give the same picture.`);
  return notes;
}

/** Planes in [0, 1] -> RGBA, rounded to the nearest. */
function toPicture({ width, height, data }) {
  const out = new Uint8ClampedArray(4 * width * height), size = width * height;
  for (let i = 0; i < size; i++) {
    for (let c = 0; c < 3; c++) out[4 * i + c] = 255 * data[c * size + i];
    out[4 * i + 3] = 255;
  }
  return { width, height, data: out };
}

/** RGBA -> planes in [0, 1]. */
function toPlanes({ width, height, data }) {
  const size = width * height, out = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) out[c * size + i] = data[4 * i + c] / 255;
  return { width, height, data: out };
}
