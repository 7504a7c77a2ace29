/* Sums in one fixed order, the largest elements, and the check of finiteness.
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

#define TERM_SQUARE 1
#define TERM_ABSOLUTE 2

/* Sum a[from..stop) by 16 sums, element x in sum (x - from) % 16, added up by halves: elements, or
 * the squares of each times the factor, or their absolutes. */
static inline float sum_terms(
  const __global float *a, ulong from, ulong stop, float factor, int term)
{
  float16 sum = 0;
  for (ulong x = from; x < stop; x += 16) {
    float16 value = 0;
    if (x + 16 <= stop)
      value = LOAD16(a + x);
    else
      for (ulong lane = 0; x + lane < stop; lane++) ((float *)&value)[lane] = a[x + lane];
    if (term == TERM_SQUARE) {
      value = value * factor;
      value = value * value;
    }
    if (term == TERM_ABSOLUTE) value = value < 0 ? -value : value;
    sum = sum + value;
  }
  return sum_16(sum);
}

/* Sum a[size] by chunks of 256, which are the items. The chunks' sums go to out, which a further
 * pass sums again until one is left, so the order of summation depends on the size alone. */
__kernel void sum_chunks(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, ulong size,
  float factor, int term, ulong items, int share)
{
  EACH_ITEM(chunk)
  {
    const ulong stop = min((chunk + 1) * CHUNK, size);
    out[out_at + chunk] = sum_terms(a + a_at, chunk * CHUNK, stop, factor, term);
  }
}

/* An item is a row [n]. */
__kernel void sum_rows_of(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, int n, int term,
  ulong items, int share)
{
  EACH_ITEM(row)
  {
    const float sum = sum_terms(a + a_at + row * n, 0, n, 1, term);
    out[out_at + row] = term == TERM_SQUARE ? sqrt(sum) : sum;
  }
}

/* An item is an element; out may be a. */
__kernel void roots(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, ulong items, int share)
{
  EACH_ITEM(x) out[out_at + x] = sqrt(a[a_at + x]);
}

/* A NaN is larger than every number, and none is larger than the one before. */
#define LARGER(a, b) ((a) > (b) || ((a) != (a) && (b) == (b)))

/* The first place of the largest element of a row [n]; an item is a row. */
__kernel void argmax_rows(
  const __global float *a, ulong a_at, __global int *out, ulong out_at, int n, ulong items,
  int share)
{
  EACH_ITEM(row)
  {
    const __global float *from = a + a_at + row * n;
    int best = 0;
    for (int x = 1; x < n; x++)
      if (LARGER(from[x], from[best])) best = x;
    out[out_at + row] = best;
  }
}

__kernel void max_rows(
  const __global float *a, ulong a_at, __global float *out, ulong out_at, int n, ulong items,
  int share)
{
  EACH_ITEM(row)
  {
    const __global float *from = a + a_at + row * n;
    float best = from[0];
    int x = 0;
    if (n >= 16) {
      float16 most = LOAD16(from);
      for (x = 16; x + 16 <= n; x += 16) {
        const float16 value = LOAD16(from + x);
        most = value > most || value != value ? value : most;
      }
      float lanes[16];
      *(float16 *)lanes = most;
      for (int lane = 0; lane < 16; lane++) best = LARGER(lanes[lane], best) ? lanes[lane] : best;
    }
    for (; x < n; x++) best = LARGER(from[x], best) ? from[x] : best;
    out[out_at + row] = best;
  }
}

/* The first place of the largest of a chunk of 256, which is an item: of a[size], or where `picked` of
 * the elements of a at places[size]. */
__kernel void argmax_chunks(
  const __global float *a, ulong a_at, const __global int *places, ulong places_at,
  __global int *out, ulong out_at, ulong size, int picked, ulong items, int share)
{
  a += a_at;
  places += places_at;
  EACH_ITEM(chunk)
  {
    const ulong stop = min((chunk + 1) * CHUNK, size);
    ulong best = picked ? places[chunk * CHUNK] : chunk * CHUNK;
    for (ulong x = chunk * CHUNK + 1; x < stop; x++) {
      const ulong place = picked ? places[x] : x;
      if (LARGER(a[place], a[best])) best = place;
    }
    out[out_at + chunk] = best;
  }
}

/* An item is an element of out: that of a at its place. */
__kernel void pick(
  const __global float *a, ulong a_at, const __global int *places, ulong places_at,
  __global float *out, ulong out_at, ulong items, int share)
{
  EACH_ITEM(x) out[out_at + x] = a[a_at + places[places_at + x]];
}

/* The k largest of a row [n], descending, and their places: an item is a row. Each element moves up
 * past smaller ones only, so equals stay in their order. */
__kernel void top_k(
  const __global float *a, ulong a_at, __global float *values, ulong values_at,
  __global int *places, ulong places_at, int n, int k, ulong items, int share)
{
  EACH_ITEM(row)
  {
    const __global float *from = a + a_at + row * n;
    __global float *best = values + values_at + row * k;
    __global int *at = places + places_at + row * k;
    for (int x = 0; x < n; x++) {
      const float value = from[x];
      if (x >= k && !LARGER(value, best[k - 1])) continue;
      int rank = min(x, k - 1);
      for (; rank > 0 && LARGER(value, best[rank - 1]); rank--) {
        best[rank] = best[rank - 1];
        at[rank] = at[rank - 1];
      }
      best[rank] = value;
      at[rank] = x;
    }
  }
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
