/* Whole vectors: fill, scaled difference, and clipping by value and by norm.
 *
 * Contraction is off, so that the numpy twins, which do the same operations in the same order, are
 * equal bit for bit. One work-item takes `share` elements, or `share` chunks of a sum.
 */

#pragma OPENCL FP_CONTRACT OFF

#define CHUNK 256

__kernel void fill(__global float *a, ulong a_at, ulong size, int share, float value)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, size);
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = value;
}

/* out = (a - b) * factor; out may be a or b. */
__kernel void difference(
  const __global float *a, ulong a_at, const __global float *b, ulong b_at, __global float *out,
  ulong out_at, ulong size, int share, float factor)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, size);
  ulong x = first;
  a += a_at;
  b += b_at;
  out += out_at;
#if LANES == 16
  for (; x + 16 <= end; x += 16) STORE16(out + x, (LOAD16(a + x) - LOAD16(b + x)) * factor);
#endif
  for (; x < end; x++) out[x] = (a[x] - b[x]) * factor;
}

/* x - x is 0, and NaN for a NaN and for infinities: clipping hides none from the check of finiteness. */
#define CLIPPED(x) (((x) > limit ? limit : (x) < -limit ? -limit : (x)) + ((x) - (x)))

__kernel void clip_value(__global float *a, ulong a_at, ulong size, int share, float limit)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, size);
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = CLIPPED(a[x]);
}

/* Sum a[size] by chunks of 256: each has 16 sums, element x in sum x % 16, added up by halves.
 *
 * The chunks' sums go to out, which a further pass sums again until one is left, so the order of
 * summation depends on the size alone. The first pass squares (a * factor).
 */
__kernel void sum_chunks(
  const __global float *a, ulong a_at, ulong size, int share, float factor, int squared,
  __global float *out, ulong out_at)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, (size + CHUNK - 1) / CHUNK);
  a += a_at;
  out += out_at;
  for (ulong chunk = first; chunk < end; chunk++) {
    const ulong stop = min((chunk + 1) * CHUNK, size);
    ulong x = chunk * CHUNK;
    float16 sum = 0;
    for (; x < stop; x += 16) {
      float16 value = 0;
      if (x + 16 <= stop)
        value = LOAD16(a + x);
      else
        for (ulong lane = 0; x + lane < stop; lane++) ((float *)&value)[lane] = a[x + lane];
      if (squared) {
        value = value * factor;
        value = value * value;
      }
      sum = sum + value;
    }
    const float8 eight = sum.lo + sum.hi;
    const float4 four = eight.lo + eight.hi;
    const float2 two = four.lo + four.hi;
    out[chunk] = two.x + two.y;
  }
}

/* Bring a vector to its limit where its norm, in units of the limit, is over 1; *squares is its square. */
__kernel void clip_norm(
  __global float *a, ulong a_at, ulong size, int share, const __global float *squares,
  ulong squares_at)
{
  const float square = squares[squares_at];
  if (!(square > 1)) return;
  const float factor = 1.0f / sqrt(square);
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, size);
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = a[x] * factor;
}
