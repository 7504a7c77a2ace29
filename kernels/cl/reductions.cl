/* Sums in one fixed order, and the check of finiteness.
 *
 * Contraction is off, so that the numpy twins, which do the same operations in the same order, are
 * equal bit for bit.
 */

#pragma OPENCL FP_CONTRACT OFF

#define CHUNK 256

/* Sum the rows of a[rows,items] into out[items]. */
__kernel void column_sum(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, int rows, ulong items,
  int share)
{
  ELEMENTS
  ulong column = first;
  a += a_at;
  out += out_at;
  EACH_16(column, end)
  {
    float16 sum = 0;
    for (int row = 0; row < rows; row++) sum += LOAD16(a + row * items + column);
    STORE16(out + column, sum);
  }
  for (; column < end; column++) {
    float sum = 0;
    for (int row = 0; row < rows; row++) sum += a[row * items + column];
    out[column] = sum;
  }
}

/* Sum a[size] by chunks of 256, which are the items: each has 16 sums, element x in sum x % 16,
 * added up by halves.
 *
 * The chunks' sums go to out, which a further pass sums again until one is left, so the order of
 * summation depends on the size alone. The first pass squares (a * factor).
 */
__kernel void sum_chunks(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, ulong size,
  float factor, int squared, ulong items, int share)
{
  a += a_at;
  out += out_at;
  EACH_ITEM(chunk)
  {
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
    out[chunk] = sum_16(sum);
  }
}

/* One item. */
__kernel void set_flag(__global int *flag, ulong flag_at, ulong items, int share)
{
  if (get_global_id(0) < items) flag[flag_at] = 1;
}

/* Clear the flag if an element has an exponent of all ones (infinite or NaN). */
__kernel void scan_finite(
  const __global int *bits, ulong bits_at, __global int *flag, ulong flag_at, ulong items,
  int share)
{
  ELEMENTS
  const int exponent = 0x7f800000;
  ulong x = first;
  int bad = 0;
  bits += bits_at;
#if LANES == 16
  int16 found = 0;
  for (; x + 16 <= end; x += 16)
    found |= (*(const __global loose_int16 *)(bits + x) & exponent) == exponent;
  const int8 half_found = found.lo | found.hi;
  const int4 quarter = half_found.lo | half_found.hi;
  bad = quarter.s0 | quarter.s1 | quarter.s2 | quarter.s3;
#endif
  for (; x < end; x++) bad |= (bits[x] & exponent) == exponent;
  if (bad) atomic_and(flag + flag_at, 0);
}
