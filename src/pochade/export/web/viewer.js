// The shelf of kept pictures, and one of them in full with what made it.

import { slug } from "./png.js";
import { $, make, notice } from "./ui.js";

const FACTS = { seed: "Seed", steps: "Steps", guidance: "Guidance", strength: "Change", negative_prompt: "Left out", model: "Model" };
const TASKS = { generate: "From the prompt alone", edit: "Edited", inpaint: "Made anew in the mask" };

export class Viewer {
  #gallery;
  #bundle;
  #actions;
  #urls = new Map(); // record id -> object URLs that are in use
  #shown = null;

  /** `bundle`: SHA-256 of the page's own; `actions`: edit(record), reuse(record); what the buttons do. */
  constructor(gallery, bundle, actions) {
    this.#gallery = gallery;
    this.#bundle = bundle;
    this.#actions = actions;
    $("viewer").addEventListener("click", (event) => event.target === $("viewer") && $("viewer").close());
    $("delete").onclick = () => this.#delete(this.#shown);
    $("edit-this").onclick = () => this.#leave(actions.edit);
    $("reuse").onclick = () => this.#leave(actions.reuse);
    $("share").onclick = () => navigator.share({ files: [this.#file(this.#shown)] }).catch(() => {});
  }

  /** The URL of one of a record's pictures. */
  url(record, part = "blob") {
    const kept = this.#urls.get(record.id) ?? {};
    kept[part] ??= URL.createObjectURL(record[part]);
    this.#urls.set(record.id, kept);
    return kept[part];
  }

  async refresh() {
    const records = await this.#gallery.all();
    $("empty").hidden = records.length > 0;
    $("shelf").replaceChildren(
      ...records.map((record) => {
        const { prompt } = record.recipe;
        const picture = make("img", { src: this.url(record), alt: prompt, loading: "lazy", decoding: "async" });
        return make("li", {}, make("button", { type: "button", className: "tile", title: prompt, onclick: () => this.open(record) }, picture));
      }),
    );
  }

  open(record) {
    this.#shown = record;
    const { recipe } = record;
    $("viewer-picture").src = this.url(record);
    $("viewer-picture").alt = recipe.prompt;
    $("viewer-prompt").textContent = recipe.prompt;
    const facts = Object.entries(FACTS).filter(([name]) => recipe[name] || recipe[name] === 0).map(([name, label]) => [label, recipe[name]]);
    const [low, high] = recipe.guidance_interval;
    if (low > 0 || high < 1) facts.push(["Guided", `at times from ${low} to ${high}`]);
    if (recipe.bundle_sha256 !== this.#bundle) facts.push(["Made by", "another model or export than this page has"]);
    const lines = [["Kind", TASKS[recipe.task]], ...facts, ["Size", `${recipe.width} × ${recipe.height} px`]];
    $("viewer-recipe").replaceChildren(...lines.flatMap(([label, value]) => [make("dt", { textContent: label }), make("dd", { textContent: value })]));
    Object.assign($("save"), { href: this.url(record), download: this.#name(record) });
    for (const part of ["source", "mask"]) {
      $(`save-${part}`).hidden = !record[part];
      if (record[part]) Object.assign($(`save-${part}`), { href: this.url(record, part), download: recipe[part] });
    }
    $("edit-this").hidden = !this.#actions.edit;
    $("share").hidden = !navigator.canShare?.({ files: [this.#file(record)] });
    if (!$("viewer").open) $("viewer").showModal();
    $("save").focus();
  }

  #name = ({ recipe }) => `${slug(recipe.prompt)}-${recipe.seed}.png`;

  #file = (record) => new File([record.blob], this.#name(record), { type: "image/png" });

  #leave(action) {
    $("viewer").close();
    action(this.#shown);
  }

  async #delete(record) {
    $("viewer").close();
    await this.#gallery.remove(record.id);
    await this.refresh();
    this.#actions.deleted(record);
    notice("The picture is deleted.", {
      label: "Undo",
      seconds: 10,
      run: async () => {
        await this.#gallery.add(record);
        await this.refresh();
      },
    });
  }
}
