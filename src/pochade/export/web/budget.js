// In place of steps: a time, for those of the best measured quality whose pictures take no longer here, or few steps.

import { seconds } from "./ui.js";

const RESERVE = 1.1; // a picture is expected to take this much more than its parts did

export const BUDGETS = [0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 60].map((seconds) => 1000 * seconds);

export const EVERYWHERE = [0, 1];
const FAST_STEPS = 4, FAST_INTERVAL = [0.4, 0.8];

/** What costs least at about the best quality, as `pochade run --fast` does: few steps, some of them guided. */
export const fast = ({ steps }, guidance) => ({ steps: Math.min(steps, FAST_STEPS), interval: guidance === 1 ? EVERYWHERE : FAST_INTERVAL });

/** Milliseconds of a picture; `times` are those of a call of each graph for one row, and the denoiser has `rows` in all. */
const expected = (times, rows) => RESERVE * ((times.text_encoder ?? 0) + times.decoder + rows * times.denoiser);

/** The rows of a model's table of quality that a page can go by: it has one depth. */
export const usable = ({ quality = [], depths }) => quality.filter(({ depth }) => depth === null || String(depth) in depths);

/**
 * The row { steps, kid, r1, cost } of the lowest KID among those that cost at most `budget` milliseconds, of equal ones
 * the fastest; null where none does. `least` is the smallest budget that has one. `rows(steps)` are those that the
 * denoiser has in so many steps, guided ones counted as often as guidance needs.
 */
export function choose(table, times, rows, budget) {
  const costs = table.map((row) => ({ ...row, cost: expected(times, rows(row.steps)) })).sort((a, b) => a.kid - b.kid || a.cost - b.cost);
  return { row: costs.find(({ cost }) => cost <= budget) ?? null, least: Math.min(...costs.map(({ cost }) => cost)) };
}

/** A sentence about what `choose` found; null stands for a device that was not timed yet. */
export function explain(found) {
  if (!found) return "This device is being timed…";
  const { row, least } = found;
  if (!row) return `The smallest possible here is ${seconds(100 * Math.ceil(least / 100))} for a picture.`;
  return `${row.steps} ${row.steps > 1 ? "steps" : "step"}, about ${seconds(row.cost)} for a picture`;
}
