// Standard normal numbers of a seed, as PyTorch draws them on a CPU: MT19937, then Box-Muller, 16 numbers at a time.
export class Noise {
  constructor(seed) {                          // a BigInt or a whole number; its lower 32 bits count
    this.mt = new Uint32Array(624); this.at = 624;
    this.mt[0] = Number(BigInt(seed) & 0xffffffffn);
    for (let i = 1; i < 624; i++) this.mt[i] = Math.imul(1812433253, this.mt[i - 1] ^ (this.mt[i - 1] >>> 30)) + i;
  }
  uniform() {                                  // [0, 1) in steps of 2^-24
    const mt = this.mt;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (mt[i] & 0x80000000) | (mt[(i + 1) % 624] & 0x7fffffff);
        mt[i] = mt[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = mt[this.at++];
    y ^= y >>> 11; y ^= (y << 7) & 0x9d2c5680; y ^= (y << 15) & 0xefc60000; y ^= y >>> 18;
    return (y & 0xffffff) / 0x1000000;
  }
  normal(n) {                                  // n >= 16 numbers
    const z = Float32Array.from({ length: n }), u = Float64Array.from({ length: n }, () => this.uniform());
    const fill = (from, u) => {
      for (let j = 0; j < 8; j++) {
        const r = Math.sqrt(-2 * Math.log(1 - u[j])), a = 2 * Math.PI * u[j + 8];
        z[from + j] = r * Math.cos(a); z[from + j + 8] = r * Math.sin(a);
      }
    };
    for (let i = 0; i + 16 <= n; i += 16) fill(i, u.subarray(i, i + 16));
    if (n % 16) fill(n - 16, Float64Array.from({ length: 16 }, () => this.uniform()));
    return z;
  }
}
