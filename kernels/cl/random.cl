/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11). */

/* The upper 24 bits, which a float holds exactly. */
static inline float unit(uint word) { return (float)(word >> 8) * 0x1p-24f; }

/* Fill out[size] with uniforms in [0, 1), four to a block; one work-item takes `share` blocks. */
__kernel void uniform_numbers(
  __global float *out, ulong out_at, ulong size, ulong counter_low, ulong counter_high,
  uint key_low, uint key_high, int share)
{
  out += out_at;
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong block = first; block < first + share && block * 4 < size; block++) {
    const ulong low = counter_low + block;
    const ulong high = counter_high + (low < counter_low ? 1 : 0);
    uint c0 = (uint)low, c1 = (uint)(low >> 32), c2 = (uint)high, c3 = (uint)(high >> 32);
    uint k0 = key_low, k1 = key_high;
#pragma unroll
    for (int round = 0; round < 10; round++) {
      const ulong p0 = (ulong)0xD2511F53u * c0, p1 = (ulong)0xCD9E8D57u * c2;
      c0 = (uint)(p1 >> 32) ^ c1 ^ k0;
      c1 = (uint)p1;
      c2 = (uint)(p0 >> 32) ^ c3 ^ k1;
      c3 = (uint)p0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const ulong at = block * 4;
    out[at] = unit(c0);
    if (at + 1 < size) out[at + 1] = unit(c1);
    if (at + 2 < size) out[at + 2] = unit(c2);
    if (at + 3 < size) out[at + 3] = unit(c3);
  }
}
