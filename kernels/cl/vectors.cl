/* Whole vectors: fill, scaled difference, and clipping by value and by norm; an item is an element.
 *
 * Contraction is off, so that the numpy twins, which do the same operations in the same order, are
 * equal bit for bit.
 */

#pragma OPENCL FP_CONTRACT OFF

__kernel void fill(__global float *a, ulong a_at, float value, ulong items, int share)
{
  ELEMENTS
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = value;
}

/* out = (a - b) * factor; out may be a or b. */
__kernel void difference(
  const __global float *a, ulong a_at, const __global float *b, ulong b_at, __global float *out,
  ulong out_at, float factor, ulong items, int share)
{
  ELEMENTS
  ulong x = first;
  a += a_at;
  b += b_at;
  out += out_at;
  EACH_16(x, end) STORE16(out + x, (LOAD16(a + x) - LOAD16(b + x)) * factor);
  for (; x < end; x++) out[x] = (a[x] - b[x]) * factor;
}

/* x - x is 0, and NaN for a NaN and for infinities: clipping hides none from the check of finiteness. */
#define CLIPPED(x) (((x) > limit ? limit : (x) < -limit ? -limit : (x)) + ((x) - (x)))

__kernel void clip_value(__global float *a, ulong a_at, float limit, ulong items, int share)
{
  ELEMENTS
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = CLIPPED(a[x]);
}

/* Bring a vector to its limit where its norm, in units of the limit, is over 1; *squares is its square. */
__kernel void clip_norm(
  __global float *a, ulong a_at, const __global float *squares, ulong squares_at, ulong items,
  int share)
{
  ELEMENTS
  const float square = squares[squares_at];
  if (!(square > 1)) return;
  const float factor = 1.0f / sqrt(square);
  a += a_at;
  for (ulong x = first; x < end; x++) a[x] = a[x] * factor;
}
