/* Sums in one fixed order, and the check of finiteness. */

/* Sum rows of a[rows,n] into out[n]; one work-item takes LANES columns. */
__kernel void column_sum(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, int rows, int n)
{
  const int column = get_global_id(0) * LANES;
  a += a_at + column;
  out += out_at + column;
#if LANES == 16
  if (column + 16 <= n) {
    float16 sum = 0;
    for (int row = 0; row < rows; row++) sum += LOAD16(a + (size_t)row * n);
    STORE16(out, sum);
    return;
  }
#endif
  for (int x = 0; x < min(LANES, n - column); x++) {
    float sum = 0;
    for (int row = 0; row < rows; row++) sum += a[(size_t)row * n + x];
    out[x] = sum;
  }
}

__kernel void set_flag(__global int *flag, ulong flag_at) { flag[flag_at] = 1; }

/* Clear the flag if one of `share` elements has an exponent of all ones (infinite or NaN). */
__kernel void scan_finite(
  const __global int *bits, ulong bits_at, ulong size, int share, __global int *flag, ulong flag_at)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const ulong end = min(first + share, size);
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
