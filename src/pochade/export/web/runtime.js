// ONNX Runtime in this worker: WebGPU where a graph is faster on it, else WebAssembly on as many threads as there are.

import { PageError } from "./files.js";

const MAX_THREADS = 4;
const FOLDER = "onnxruntime";

/** Whether this browser has a GPU that ONNX Runtime can use. */
async function hasGpu() {
  if (!("Suspending" in WebAssembly)) return false;
  return !!(await self.navigator.gpu?.requestAdapter().catch(() => null));
}

/** Which build of ONNX Runtime fits this browser: { name, gpu, threads, wasm }, `wasm` being the path of its binary. */
export async function chooseBuild({ gpu = true, threads = null }) {
  const onGpu = gpu && (await hasGpu());
  const usual = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  const kind = onGpu ? "jspi" : "wasm";
  return {
    gpu: onGpu,
    threads: self.crossOriginIsolated ? (threads ?? usual) : 1,
    script: `./${FOLDER}/ort.${kind}.bundle.min.mjs`,
    wasm: `${FOLDER}/ort-wasm-simd-threaded${onGpu ? ".jspi" : ""}.wasm`,
  };
}

/** Refuses a browser that cannot run the model. */
export function checkBrowser() {
  if (!self.WebAssembly?.validate?.(SIMD)) {
    throw new PageError("This browser has no WebAssembly with SIMD, which the model needs: it is switched off, or the browser is older than 2023.");
  }
}

/** A module with one instruction on vectors of 128 bits. */
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11]);

/** The library, ready: `binary` is the content of the build's `wasm`. */
export async function openRuntime(build, binary) {
  const ort = await import(build.script).catch(() => {
    throw new PageError(`${build.script.slice(2)} cannot be loaded: the page was not copied whole, or you are offline.`);
  });
  ort.env.logLevel = "fatal"; // it warns of what graphs place where, which is nothing for a console
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = build.threads;
  return ort;
}

/** A session of a graph. `provider` is `webgpu` or `wasm`. */
export async function openSession(ort, content, provider) {
  return ort.InferenceSession.create(content, {
    executionProviders: provider === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
    enableCpuMemArena: false,
    enableMemPattern: false,
    logSeverityLevel: 4,
  });
}
