// From noise to latents: the loop of a bundle, on Float32Arrays of [C, H, W].

const f = Math.fround;

/** The times from t = `start` to 0, of which a picture takes the last part of `steps` from 1 on. */
export function noiseTimes({ times, shift }, steps, start = 1) {
  if (start === 1 && times[steps]) return times[steps].map(f);
  const taken = Math.max(1, Math.ceil(start * steps - 1e-9));
  return Array.from({ length: taken + 1 }, (_, i) => {
    const u = f(start * (1 - i / taken));
    return f((shift * u) / (1 + (shift - 1) * u));
  });
}

/** The rows of a call at t, of `rows` where guidance applies: at times from `low` to `high`, in the float32 of times. */
export const rowsAt = (t, rows, [low, high]) => (f(t) >= f(low) && f(t) <= f(high) ? rows : 1);

/** z_t = (1 - t) data + t noise. */
export const interpolate = (data, noise, t) => data.map((value, i) => f(f(1 - t) * value) + f(t * noise[i]));

/**
 * Latents at t = 0, by Euler's method for dz/dt = v(z, t), or by that of latent consistency.
 *
 * `denoise(z, t)` gives a velocity; `source` are latents to start from where the first time is below 1; `mask` has a
 * number for each cell of [H, W], 1 where the source is sampled anew; `onStep(taken, total, predicted)` is awaited
 * after each step.
 */
export async function sample({ denoise, method, times, noise, count, source = null, mask = null, onStep }) {
  const start = noise.normal(count), cells = mask?.length ?? 1;
  let z = source && times[0] !== 1 ? interpolate(source, start, times[0]) : start.slice();
  for (let i = 1; i < times.length; i++) {
    const t = times[i - 1], following = times[i], v = await denoise(z, t);
    const predicted = z.map((value, j) => value - f(t * v[j]));
    if (method === "lcm") z = interpolate(predicted, noise.normal(count), following);
    else {
      const dt = f(following - t);
      z = z.map((value, j) => value + f(dt * v[j]));
    }
    if (source && mask) {
      const outside = interpolate(source, start, following);
      for (let j = 0; j < count; j++) {
        if (mask[j % cells] > 0) continue;
        z[j] = outside[j];
        predicted[j] = source[j];
      }
    }
    await onStep?.(i, times.length - 1, predicted);
  }
  return z;
}

/** Velocities of the rows of a batch -> one: guidance, and with three rows that towards a source. */
export function guided(rows, scale, imageScale) {
  if (rows.length === 1) return rows[0];
  const [given, none, nothing] = rows, s = f(scale);
  const joined = none.map((value, i) => value + f(s * f(given[i] - value)));
  if (!nothing) return joined;
  const more = f(imageScale - 1);
  return joined.map((value, i) => value + f(more * f(none[i] - nothing[i])));
}
