/* Matrix product for CPU devices: one work-item computes `rows` rows of one panel of columns.
 *
 * It packs DEPTH rows of its panel of B at a time into private memory, which stays in the core's
 * cache while every row passes by: the blocking of Goto and van de Geijn, "Anatomy of
 * High-Performance Matrix Multiplication" (2008), with the packing inside. A is read where it lies:
 * its rows are eight streams. In the form "tn" A's rows are columns in memory, and `pack_rows`
 * turns them into panels first.
 */

/* Turn 16 vectors of 16 over: four rounds that interleave the halves. */
static inline void turn16(float16 *r)
{
  float16 t[16];
#pragma unroll
  for (int round = 0; round < 4; round++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float16 x = r[i], y = r[i + 8];
      t[2 * i] = (float16)(x.s0, y.s0, x.s1, y.s1, x.s2, y.s2, x.s3, y.s3,
                           x.s4, y.s4, x.s5, y.s5, x.s6, y.s6, x.s7, y.s7);
      t[2 * i + 1] = (float16)(x.s8, y.s8, x.s9, y.s9, x.sa, y.sa, x.sb, y.sb,
                               x.sc, y.sc, x.sd, y.sd, x.se, y.se, x.sf, y.sf);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) r[i] = t[i];
  }
}

/* Pack b[K,N]: `depth` rows of `columns` columns, zero to the next multiple of 16. */
static inline void pack_straight(
  const __global float *from, float *to, int n, int columns, int width, int depth)
{
  if (columns == 48) {
    for (int step = 0; step < depth; step++, to += 48, from += n) {
      const float16 x = LOAD16(from), y = LOAD16(from + 16), z = LOAD16(from + 32);
      *(float16 *)to = x;
      *(float16 *)(to + 16) = y;
      *(float16 *)(to + 32) = z;
    }
    return;
  }
  for (int step = 0; step < depth; step++, to += width, from += n) {
    int x = 0;
    for (; x + 16 <= columns; x += 16) *(float16 *)(to + x) = LOAD16(from + x);
    for (; x < width; x++) to[x] = x < columns ? from[x] : 0.0f;
  }
}

/* Pack b[N,K], turned over. */
static inline void pack_turned(
  const __global float *from, float *to, int k, int columns, int width, int depth)
{
  for (int lane = 0; lane < width; lane += 16) {
    int step = 0;
    if (lane + 16 <= columns) {
      for (; step + 16 <= depth; step += 16) {
        float16 r[16];
#pragma unroll
        for (int i = 0; i < 16; i++) r[i] = LOAD16(from + (size_t)(lane + i) * k + step);
        turn16(r);
#pragma unroll
        for (int i = 0; i < 16; i++) *(float16 *)(to + (step + i) * width + lane) = r[i];
      }
    }
    for (; step < depth; step++)
      for (int x = lane; x < lane + 16; x++)
        to[step * width + x] = x < columns ? from[(size_t)x * k + step] : 0.0f;
  }
}

/* Apply the epilogue to what was just stored and is still in the cache. */
static inline void finish(
  __global float *out, const __global float *bias, const __global float *y, int has_bias,
  int activation, int derivative, int n, int first_row, int end_row, int column, int columns)
{
  for (int row = first_row; row < end_row; row++) {
    __global float *to = out + (size_t)row * n + column;
    int x = 0;
    for (; x + 16 <= columns; x += 16) {
      float16 value = LOAD16(to + x);
      if (has_bias) value += LOAD16(bias + column + x);
      value = activate_16(value, activation);
      if (derivative) value = derive_16(value, LOAD16(y + (size_t)row * n + column + x), derivative);
      STORE16(to + x, value);
    }
    for (; x < columns; x++) {
      float value = to[x];
      if (has_bias) value += bias[column + x];
      value = activate_1(value, activation);
      if (derivative) value = derive_1(value, y[(size_t)row * n + column + x], derivative);
      to[x] = value;
    }
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void product(
  const __global float *a, ulong a_at, const __global float *b, ulong b_at,
  __global float *out, ulong out_at, const __global float *bias, ulong bias_at,
  const __global float *y, ulong y_at, int has_bias, int activation, int derivative,
  int m, int n, int k, int panel, int rows)
{
  a += a_at;
  b += b_at;
  out += out_at;
  const int column = get_global_id(0) * panel;
  const int columns = min(panel, n - column);
  const int lanes = (columns + 15) / 16;
  const int first_row = get_global_id(1) * rows;
  const int end_row = min(first_row + rows, m);
  float packed[DEPTH * 48] __attribute__((aligned(64)));

  for (int k_first = 0; k_first < k; k_first += DEPTH) {
    const int depth = min(DEPTH, k - k_first);
#if B_TURNED
    pack_turned(b + (size_t)column * k + k_first, packed, k, columns, lanes * 16, depth);
#else
    pack_straight(b + (size_t)k_first * n + column, packed, n, columns, lanes * 16, depth);
#endif
    if (lanes == 3)
      tiles_3(a, packed, out, m, n, k, first_row, end_row, column, columns, k_first, depth,
              k_first > 0);
    else if (lanes == 2)
      tiles_2(a, packed, out, m, n, k, first_row, end_row, column, columns, k_first, depth,
              k_first > 0);
    else
      tiles_1(a, packed, out, m, n, k, first_row, end_row, column, columns, k_first, depth,
              k_first > 0);
  }
  if (has_bias || activation || derivative)
    finish(out, bias + bias_at, y + y_at, has_bias, activation, derivative, n, first_row, end_row,
           column, columns);
}

/* Pack a[K,M] into panels of TILE_ROWS columns, zero past M; one work-item takes eight. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void pack_rows(const __global float *a, ulong a_at, __global float *packed, int m, int k)
{
  const int first = get_global_id(0) * 8 * TILE_ROWS;
  const int count = min(8 * TILE_ROWS, m - first);
  for (int step = 0; step < k; step++) {
    const __global float *from = a + a_at + (size_t)step * m + first;
    __global float *to = packed + (size_t)first * k + (size_t)step * TILE_ROWS;
    int x = 0;
    for (; x + TILE_ROWS <= count; x += TILE_ROWS, to += (size_t)k * TILE_ROWS)
#if TILE_ROWS == 8
      STORE8(to, LOAD8(from + x));
#else
      for (int i = 0; i < TILE_ROWS; i++) to[i] = from[x + i];
#endif
    if (x < count)
      for (int i = 0; i < TILE_ROWS; i++) to[i] = x + i < count ? from[x + i] : 0.0f;
  }
}
