// The service worker: the page without a network, threads for WebAssembly, new versions.

import { memory, notice } from "./ui.js";

const PATIENCE = 20_000; // milliseconds that it may take at the first visit

/** Has the service worker keep the page, and load it once more where that gives WebAssembly its threads. */
export async function isolate() {
  const workers = navigator.serviceWorker;
  if (!workers) return; // plain http: no offline use, one thread
  let registration;
  try {
    registration = await workers.register("sw.js", { updateViaCache: "none" });
  } catch {
    notice("This browser does not keep the page: it needs the network at every visit.");
    return;
  }
  offerUpdate(registration);
  if (self.crossOriginIsolated) return;
  if (!workers.controller) {
    const first = registration.installing ?? registration.waiting ?? registration.active;
    await new Promise((resolve) => {
      workers.addEventListener("controllerchange", resolve, { once: true });
      first?.addEventListener("statechange", () => first.state === "redundant" && resolve());
      setTimeout(resolve, PATIENCE);
    });
    if (!workers.controller) notice("The page could not be kept for use without a network; the next visit tries again.");
  }
  if (workers.controller && !memory.get("isolated", "sessionStorage")) {
    memory.set("isolated", true, "sessionStorage");
    if (!memory.get("isolated", "sessionStorage")) return; // it could go on for ever
    location.reload();
    await new Promise(() => {});
  }
}

function offerUpdate(registration) {
  const offer = (waiting) => {
    navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
    notice("There is a new version of this page.", { label: "Load it", run: () => waiting.postMessage("activate") });
  };
  if (registration.waiting && navigator.serviceWorker.controller) offer(registration.waiting);
  registration.addEventListener("updatefound", () => {
    const found = registration.installing;
    found.addEventListener("statechange", () => {
      if (found.state === "installed" && navigator.serviceWorker.controller && registration.active !== found) offer(found);
    });
  });
}
