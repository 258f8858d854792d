// The page: what is requested, what is under way, and what came of it.

import { BUDGETS, EVERYWHERE, choose, explain, fast, usable } from "./budget.js";
import { Editor } from "./editor.js";
import { Files, PageError, hex } from "./files.js";
import { Gallery } from "./gallery.js";
import { isolate } from "./isolation.js";
import { checkManifest } from "./model.js";
import { encodePng } from "./png.js";
import { checkBrowser } from "./runtime.js";
import { noiseTimes, rowsAt } from "./sampler.js";
import { $, make, memory, notice, seconds, show } from "./ui.js";
import { Viewer } from "./viewer.js";

const SEEDS = 2 ** 31; // drawn below this: small enough to be read out
const BUNDLE = "model/manifest.json";
const VIEWS = ["generate", "edit", "gallery"];

let manifest, files, gallery, viewer, editor, worker;
let ready = false;
let runtimeVersion = "";
let times = null; // graph -> milliseconds of a call with one row
let job = null; // what is under way: { id, kind, tile, resolve, reject }
let jobs = 0;
let result = null; // the last edit: { record, of: the picture on the workspace that it was made of }
let choices = []; // numbers of steps
let strengthOf = "edit"; // the task that the slider was last set for

// Start

async function start() {
  checkBrowser();
  await isolate();
  files = await Files.open(notice);
  manifest = checkManifest(await files.json(BUNDLE));
  gallery = await Gallery.open(() => viewer?.refresh(), notice);
  const edits = manifest.tasks.includes("edit");
  viewer = new Viewer(gallery, files.sha256(BUNDLE), { edit: edits ? editThis : null, reuse, deleted });
  editor = new Editor(editorChanged);
  describeModel(edits);
  wire();
  await viewer.refresh();
  go();
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => HANDLERS[data.type](data);
  worker.onerror = (event) => broken(`The model could not be started (${event.message ?? "its script does not load"}).`);
  const query = new URLSearchParams(location.search);
  worker.postMessage({
    type: "open",
    backend: query.get("backend"),
    threads: Number(query.get("threads")) || null,
    providers: memory.get("providers"),
  });
}

function broken(text) {
  document.body.classList.add("broken");
  const retry = make("button", { type: "button", textContent: "Try again", onclick: () => location.reload() });
  const message = make("div", { className: "welcome", role: "alert" }, make("p", { className: "lead", textContent: "The model cannot run here." }), make("p", { textContent: text }), retry);
  $("welcome").replaceWith(message);
  if (location.hash === "#gallery") return;
  document.querySelector(".stage").prepend(message);
}

// The form

/** Chooses a number of steps, which is offered from now on. */
function chooseSteps(steps) {
  choices = [...new Set([...choices, steps])].sort((a, b) => a - b);
  Object.assign($("steps"), { max: choices.length - 1, value: choices.indexOf(steps) });
}

function describeModel(edits) {
  const { model, defaults, text, trained_tasks } = manifest;
  document.title = `${model.name} · pochade`;
  $("name").textContent = model.name;
  document.querySelector('[data-for="edit"]').hidden = !edits;
  document.body.style.setProperty("--ratio", manifest.width / manifest.height);
  choices = Object.keys(manifest.sampling.times).map(Number);
  chooseSteps(defaults.steps);
  const paces = { fast: defaults.guidance !== 1, time: usable(manifest).length > 0 };
  for (const [name, there] of Object.entries(paces)) document.querySelector(`[name="pace"][value="${name}"]`).parentElement.hidden = !there;
  $("pace-field").hidden = !paces.fast && !paces.time;
  Object.assign($("time"), { max: BUDGETS.length - 1, value: BUDGETS.indexOf(3000) });
  const step = Number.isInteger(2 * defaults.guidance) ? 0.5 : 0.01; // of a slider whose values have that of the model
  Object.assign($("guidance"), { max: Math.max(10, defaults.guidance), step, value: defaults.guidance });
  $("strength").value = defaults.strength.edit ?? 0.6;
  newSeed();
  chips("styles", model.styles, (style, chip) => {
    const on = chip.getAttribute("aria-pressed") !== "true";
    for (const one of $("styles").children) one.setAttribute("aria-pressed", on && one === chip);
  });
  chips("prompts", text?.classes.length ? text.classes : model.prompts, (prompt) => {
    $("prompt").value = prompt;
    $("prompt").focus();
  });
  $("prompt").placeholder = model.prompts[0] ?? text?.classes[0] ?? "a red apple";
  $("prompt").disabled = !text;
  $("mode-field").hidden = !trained_tasks.includes("edit");
  document.querySelector(`[name="mode"][value="${trained_tasks.includes("edit") ? "instruction" : "description"}"]`).checked = true;
  const licence = model.license ? `Licence of the model: ${model.license}. ` : "";
  $("about").textContent = `${licence}${model.attribution ?? ""} ${manifest.width} × ${manifest.height} px. Made with pochade ${manifest.pochade} and ONNX Runtime.`;
  updateForm();
}

function chips(id, values, choose) {
  $(`${id}-field`).hidden = !values?.length;
  $(id).replaceChildren(
    ...(values ?? []).map((value) => {
      const chip = make("button", { type: "button", textContent: value });
      if (id === "styles") chip.setAttribute("aria-pressed", "false");
      chip.onclick = () => choose(value, chip);
      return chip;
    }),
  );
}

function newSeed() {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS;
}

const chosen = (name) => document.querySelector(`[name="${name}"]:checked`)?.value;
const view = () => document.body.dataset.view;
const editing = () => view() === "edit";
const instructed = () => editing() && chosen("mode") === "instruction";
const pace = () => (editing() ? "steps" : chosen("pace"));
const rowsOf = (guidance) => (instructed() ? 3 : guidance === 1 ? 1 : 2);

/** The times at which the model guides a picture from a prompt. */
const usualInterval = () => manifest.defaults.guidance_interval ?? EVERYWHERE;

/** The steps, and the times that are guided. */
function sampling(guidance) {
  if (pace() === "fast") return fast(manifest.defaults, guidance);
  const steps = pace() === "time" ? paid().row.steps : choices[Number($("steps").value)];
  return { steps, interval: editing() ? EVERYWHERE : usualInterval() };
}

/** The rows that the denoiser has in all steps of a picture together. */
function rowsIn(steps, guidance, interval) {
  const rows = rowsOf(guidance);
  return noiseTimes(manifest.sampling, steps).slice(0, -1).reduce((sum, t) => sum + rowsAt(t, rows, interval), 0);
}

/** What the time pays for, { row, least }; null until this device was timed. */
function paid() {
  if (!times?.decoder || !times.denoiser) return null;
  const guidance = Number($("guidance").value), rows = (steps) => rowsIn(steps, guidance, usualInterval());
  return choose(usable(manifest), times, rows, BUDGETS[Number($("time").value)]);
}

function describeTime() {
  const found = paid();
  $("time-value").textContent = seconds(BUDGETS[Number($("time").value)]);
  $("time-note").textContent = explain(found);
  return found?.row ?? null;
}

/** The number of steps, and how long the pictures take. */
function described(guidance) {
  const { steps, interval } = sampling(guidance);
  if (!times) return `${steps}`;
  const count = editing() ? 1 : Number(chosen("count")), rows = rowsIn(steps, guidance, interval);
  return `${steps} · about ${seconds(count * (rows * times.denoiser + times.decoder))}`;
}

function updateForm() {
  const guidance = Number($("guidance").value), affordable = pace() !== "time" || describeTime();
  for (const name of ["steps", "time"]) $(`${name}-field`).hidden = pace() !== name;
  $("fast-note").hidden = pace() !== "fast";
  if (pace() === "fast") $("fast-note").textContent = `Steps: ${described(guidance)}`;
  if (pace() === "steps") $("steps-value").textContent = described(guidance);
  $("guidance-value").textContent = guidance;
  $("strength-value").textContent = `${Math.round(100 * Number($("strength").value))} %`;
  $("negative").disabled = guidance === 1;
  $("strength-field").hidden = instructed();
  $("prompt-label").textContent = !editing() ? "Prompt" : instructed() ? "What to do" : editor?.mask ? "What is there, in and around the mask" : "What the new picture shows";
  const busy = job !== null, canGo = ready && !busy && affordable && (!editing() || editor?.picture);
  $("go").textContent = editing() ? (editor?.mask ? "Generate inside the mask" : "Edit") : "Generate";
  $("go").hidden = $("reroll").hidden = busy;
  $("cancel").hidden = !busy;
  $("go").disabled = $("reroll").disabled = !canGo;
}

function wire() {
  $("form").addEventListener("input", updateForm);
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("form").requestSubmit($("go").disabled ? null : $("go"));
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && !$("viewer").open && job && cancel());
  $("reroll").onclick = () => {
    newSeed();
    submit();
  };
  $("cancel").onclick = cancel;
  $("seed").addEventListener("input", () => ($("seed").value = $("seed").value.replace(/\D/g, "")));
  $("seed").addEventListener("change", () => $("seed").value || newSeed());
  $("split").addEventListener("input", () => $("compare").style.setProperty("--at", `${$("split").value}%`));
  $("back").onclick = () => showResult(null);
  $("continue").onclick = () => editThis(result.record);
  $("open-result").onclick = () => viewer.open(result.record);
  addEventListener("hashchange", go);
}

function go() {
  const wanted = location.hash.slice(1);
  const to = VIEWS.includes(wanted) && !document.querySelector(`[data-for="${wanted}"]`).hidden ? wanted : "generate";
  document.body.dataset.view = to;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.for === to) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("gallery").hidden = to !== "gallery";
  $("editor").hidden = to !== "edit";
  $("pictures").hidden = to !== "generate";
  if ($("welcome")) $("welcome").hidden = to !== "generate" || $("pictures").children.length > 0;
  if (ready && !job) status(""); // of another view
  showResult(result);
  updateForm();
}

// Pictures

function request() {
  const style = document.querySelector('#styles [aria-pressed="true"]')?.textContent;
  const typed = $("prompt").value.trim();
  const guidance = Number($("guidance").value);
  const common = {
    prompt: typed && style && !instructed() && !typed.endsWith(`${style} style`) ? `${typed}, ${style} style` : typed,
    negativePrompt: guidance === 1 ? "" : $("negative").value.trim(),
    seed: Number($("seed").value),
    guidance,
    ...sampling(guidance),
  };
  if (!editing()) return { ...common, task: "generate" };
  const { picture, mask } = editor, { defaults } = manifest, instruction = instructed();
  return {
    ...common,
    task: mask ? "inpaint" : "edit",
    instruction,
    imageGuidance: defaults.instruction_guidance,
    strength: instruction ? 1 : Number($("strength").value),
    source: picture,
    mask: mask?.slice() ?? null,
  };
}

async function submit() {
  if (!ready || job || $("go").disabled) return;
  const given = request();
  if (manifest.text && !given.prompt) {
    note("Write what the picture should show.");
    $("prompt").focus();
    return;
  }
  const count = editing() ? 1 : Number(chosen("count")), began = performance.now();
  if (given.seed + count - 1 > Number.MAX_SAFE_INTEGER) {
    note(`The seed is too large: the page takes whole numbers up to ${Number.MAX_SAFE_INTEGER}.`);
    $("seed").focus();
    return;
  }
  note("");
  const tiles = given.task === "generate" ? newTiles(count, given.prompt) : [null];
  if (given.source) showResult(null);
  try {
    for (let i = 0; i < count; i++) {
      const one = { ...given, seed: given.seed + i };
      const picture = await generate(one, tiles[i], i, count);
      note(picture.notes.join(" "));
      const record = await keep(one, picture);
      if (tiles[i]) finishTile(tiles[i], picture, record);
      else finishEdit(record, one.source);
      status(`${count > 1 ? `${i + 1} of ${count} pictures` : "Done"} in ${seconds(performance.now() - began)}`);
    }
    viewer.refresh();
    navigator.storage?.persist?.().catch(() => {});
  } catch (error) {
    for (const tile of tiles) if (tile?.getAttribute("aria-busy") === "true") tile.remove();
    $("pictures").dataset.count = $("pictures").children.length || 1;
    if ($("welcome")) $("welcome").hidden = view() !== "generate" || $("pictures").children.length > 0;
    if (given.source) showResult(result); // in place of a preview
    status(error.cancelled ? "Cancelled." : "");
    if (!error.cancelled) notice(error.message);
  }
  job = null;
  progress(null);
  updateForm();
}

function generate(one, tile, index, count) {
  const id = ++jobs;
  const promise = new Promise((resolve, reject) => (job = { id, tile, source: one.source, index, count, resolve, reject, began: performance.now() }));
  status(count > 1 ? `Picture ${index + 1} of ${count}…` : "Reading the prompt…");
  progress(index / count);
  updateForm();
  worker.postMessage({ type: "generate", id, request: one });
  return promise;
}

function cancel() {
  status("Stopping…");
  worker.postMessage({ type: "cancel", id: job.id });
}

const HANDLERS = {
  notice: ({ text }) => notice(text),
  broken: ({ text }) => broken(text),
  download({ received, total }) {
    if (!total) return;
    progress(received / total);
    status(`Downloading the model: ${(received / 1e6).toFixed(0)} of ${(total / 1e6).toFixed(0)} MB. It is kept for later visits.`);
  },
  ready({ version, threads, gpu }) {
    ready = true;
    runtimeVersion = version;
    progress(null);
    document.body.dataset.backend = gpu ? "webgpu" : "wasm";
    document.body.dataset.threads = threads;
    status(`Ready · ${gpu ? "on the GPU" : `${threads} ${threads > 1 ? "threads" : "thread"}`}`);
    updateForm();
  },
  providers({ providers }) {
    memory.set("providers", providers);
    if (Object.values(providers.chosen).includes("webgpu")) document.body.dataset.backend = "webgpu";
  },
  speed(measured) {
    ({ times } = measured);
    document.body.dataset.warm = "yes";
    updateForm();
  },
  step({ id, taken, total, picture }) {
    if (job?.id !== id) return;
    const spent = performance.now() - job.began;
    progress((job.index + taken / (total + 0.5)) / job.count);
    status(`${job.count > 1 ? `Picture ${job.index + 1} of ${job.count}, step` : "Step"} ${taken} of ${total} · ${seconds(spent)}`);
    job.tile?.style.setProperty("--done", taken / total);
    if (picture && job.tile) show(job.tile.firstElementChild, picture);
    else if (picture && fits(picture, job.source)) show($("source"), picture);
  },
  picture({ id, picture }) {
    if (job?.id === id) job.resolve(picture);
  },
  cancelled({ id }) {
    if (job?.id === id) job.reject(Object.assign(new Error(), { cancelled: true }));
  },
  error({ id, text }) {
    if (job?.id === id) job.reject(new PageError(text));
  },
};

/** A preview of an edit has the model's size; it is shown over its picture, if that is there still and has such a shape. */
const fits = (preview, source) => source === editor.picture && Math.abs(source.width / source.height - preview.width / preview.height) < 0.01;

function newTiles(count, prompt) {
  const tiles = Array.from({ length: count }, () => {
    const canvas = make("canvas", { width: manifest.width, height: manifest.height });
    return make("button", { type: "button", className: "tile", "aria-busy": "true", "aria-label": `${prompt}, in the making` }, canvas, make("i"));
  });
  $("pictures").dataset.count = count;
  $("pictures").replaceChildren(...tiles);
  if ($("welcome")) $("welcome").hidden = true;
  return tiles;
}

function finishTile(tile, picture, record) {
  show(tile.firstElementChild, picture);
  tile.lastElementChild.remove();
  tile.removeAttribute("aria-busy");
  tile.setAttribute("aria-label", `${record.recipe.prompt}: open`);
  tile.dataset.id = record.id;
  tile.onclick = () => viewer.open(record);
}

/** Shows an edit beside what it was made of, or says where it is if that has left the workspace. */
function finishEdit(record, source) {
  if (source === editor.picture) showResult({ record, of: source });
  else notice("The edit is finished.", { label: "Open", run: () => viewer.open(record) });
}

function showResult(edit) {
  result = edit;
  const there = edit !== null && editing();
  $("compare").hidden = $("compare-tools").hidden = !there;
  $("workspace").hidden = there || !editor.picture;
  if (editor.picture) show($("source"), editor.picture);
  if (!there) return;
  const { record } = edit, { width, height } = record.recipe;
  $("compare").style.setProperty("--ratio", width / height);
  $("before").src = viewer.url(record, "source");
  $("after").src = viewer.url(record);
  $("split").value = 50;
  $("compare").style.setProperty("--at", "50%");
}

const sha256 = async (data) => (self.crypto?.subtle ? hex(await crypto.subtle.digest("SHA-256", data)) : "");

/** A picture in the gallery, as a PNG that says how it was made: the words of `pochade generate`. */
async function keep(one, picture) {
  const { model, pochade, decoder, defaults } = manifest, parts = {}, more = {};
  if (one.task !== "generate") {
    parts.source = await encodePng(one.source);
    Object.assign(more, { strength: one.strength, instruction: one.instruction, image_guidance: one.instruction ? one.imageGuidance : null });
    const stem = one.source.name.replace(/\.[^.]*$/, "");
    Object.assign(more, { source: `${stem}.png`, source_sha256: await sha256(await parts.source.arrayBuffer()) });
    if (one.mask) {
      const { width, height } = one.source, data = new Uint8Array(4 * width * height);
      one.mask.forEach((value, i) => (data[4 * i] = 255 * value));
      parts.mask = await encodePng({ width, height, data }, null, 1);
      Object.assign(more, { mask: `${stem}-mask.png`, mask_sha256: await sha256(await parts.mask.arrayBuffer()) });
    }
  }
  const recipe = {
    task: one.task,
    prompt: one.prompt,
    seed: one.seed,
    model: model.name,
    steps: one.steps,
    guidance: one.guidance,
    guidance_interval: one.interval,
    negative_prompt: one.negativePrompt,
    depth: defaults.depth,
    decoder: decoder?.name ?? "model",
    ...more,
    model_sha256: model.sha256 ?? "",
    ...(decoder ? { decoder_sha256: decoder.sha256 } : {}),
    bundle_sha256: files.sha256(BUNDLE),
    height: picture.height,
    width: picture.width,
    versions: { pochade, "onnxruntime-web": runtimeVersion },
  };
  return gallery.add({ blob: await encodePng(picture, recipe), recipe, ...parts });
}

async function editThis(record) {
  const name = `${record.recipe.prompt ? "picture" : "edited"}-${record.recipe.seed}.png`;
  location.hash = "edit";
  go();
  showResult(null);
  await editor.take(new File([record.blob], name, { type: "image/png" }));
  $("prompt").select();
}

async function reuse({ recipe, source, mask }) {
  $("prompt").value = recipe.prompt;
  for (const style of $("styles").children) style.setAttribute("aria-pressed", "false");
  $("seed").value = recipe.seed;
  $("negative").value = recipe.negative_prompt;
  $("guidance").value = recipe.guidance;
  chooseSteps(recipe.steps);
  const few = fast(manifest.defaults, recipe.guidance);
  const isFast = manifest.defaults.guidance !== 1 && recipe.task === "generate" && recipe.steps === few.steps && `${recipe.guidance_interval}` === `${few.interval}`;
  $("form").elements.pace.value = isFast ? "fast" : "steps";
  location.hash = recipe.task === "generate" ? "generate" : "edit";
  go();
  if (source) {
    showResult(null);
    $("form").elements.mode.value = recipe.instruction ? "instruction" : "description";
    await editor.take(new File([source], recipe.source, { type: "image/png" }));
    if (mask) await editor.takeMask(mask);
    if (recipe.strength) $("strength").value = recipe.strength;
    updateForm();
  }
  note(recipe.bundle_sha256 === files.sha256(BUNDLE) ? "" : "Another model, or another export of it, made that picture: here its settings give another one.");
  $("prompt").focus();
}

function deleted(record) {
  document.querySelector(`.tile[data-id="${record.id}"]`)?.remove();
  if (result?.record.id === record.id) showResult(null);
  if ($("welcome")) $("welcome").hidden = view() !== "generate" || $("pictures").children.length > 0;
}

function editorChanged() {
  if (!editor) return;
  if (result && result.of !== editor.picture) showResult(null);
  const task = editor.mask ? "inpaint" : "edit";
  if (task !== strengthOf) $("strength").value = manifest.defaults.strength[task] ?? 1;
  strengthOf = task;
  updateForm();
}

const status = (text) => Object.assign($("status"), { textContent: text });
const note = (text) => Object.assign($("prompt-note"), { textContent: text, hidden: !text });

function progress(share) {
  $("progress").hidden = share === null;
  if (share !== null) $("progress").value = Math.min(1, Math.max(0, share));
}

start().catch((error) => broken(error instanceof PageError ? error.message : `The page could not be started (${error?.message ?? error}).`));
