/* Convolution for GPUs: products whose operands are gathered, through local memory.
 *
 * Built once for each PART. A work-group of 16 x 16 computes 64 x 64; each work-item holds 4 x 4 sums,
 * spread 16 apart so that neighbours read and write neighbours. `bases` holds where in an image of x
 * each place begins, `taps` how far from there each tap lies; both as on CPUs, with groups of one.
 *
 *   PART 0: out[f, (b,place)] = sum over k=(c,tap) of w[f,k] * x[b, base + tap]
 *   PART 1: out[c, (b,y,x)]   = sum over (f,tap) of w[f,(c,tap)] * delta[b,f, the place that meets it]
 *   PART 2: out[f, k]         = sum over (b,place) of delta[b,f,place] * x[b, base + tap], in pieces;
 *           behind them, with has_bias, the pieces of delta's own sums
 *
 * Every element is summed from first to last.
 */

#define SIDE 16
#define SPAN 64

#define SHAPE                                                                                      \
  int m, int n, int total, int batch, int channels, int filters, int window, int places, int image, \
    int h, int w, int oh, int ow, int window_x, int stride_y, int stride_x, int pad_y, int pad_x,  \
    int far_y, int far_x
#define GIVEN                                                                                      \
  m, n, total, batch, channels, filters, window, places, image, h, w, oh, ow, window_x, stride_y,  \
    stride_x, pad_y, pad_x, far_y, far_x

static inline float left_of(const __global float *a, int row, int step, SHAPE)
{
#if PART == 0
  return a[(size_t)row * total + step];
#elif PART == 1
  return a[((size_t)(step / window) * channels + row) * window + step % window];
#else
  return a[((size_t)(step / places) * filters + row) * places + step % places];
#endif
}

static inline float right_of(
  const __global float *b, const __global int *taps, const __global int *bases, int step, int column,
  SHAPE)
{
#if PART == 0
  return b[(size_t)(column / places) * image + bases[column % places] + taps[step]];
#elif PART == 1
  const int f = step / window, tap = step % window;
  const int in = column / (h * w), y = column % (h * w) / w, x = column % w;
  const int from_y = y + pad_y - tap / window_x * far_y, oy = from_y / stride_y;
  const int from_x = x + pad_x - tap % window_x * far_x, ox = from_x / stride_x;
  if (from_y < 0 || from_x < 0 || from_y % stride_y || from_x % stride_x || oy >= oh || ox >= ow)
    return 0;
  return b[(((size_t)in * filters + f) * oh + oy) * ow + ox];
#else
  return b[(size_t)(step / places) * image + bases[step % places] + taps[column]];
#endif
}

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1)))
void gathered(
  const __global float *a, ulong a_at, const __global float *b, ulong b_at, __global float *out,
  ulong out_at, const __global float *other, ulong other_at, const __global int *taps,
  const __global int *bases, int has_bias, int function, int piece, SHAPE)
{
  a += a_at;
  b += b_at;
  out += out_at;
  other += other_at;
  /* One column more than needed, so that a column's elements lie in different banks. */
  __local float tile_a[SIDE][SPAN + 1], tile_b[SIDE][SPAN + 1];
  const int x = get_local_id(0), y = get_local_id(1), item = y * SIDE + x;
  const int row = get_group_id(1) * SPAN, column = get_group_id(0) * SPAN;
  const int begin = get_group_id(2) * piece, end = min(begin + piece, total);
  float sum[4][4] = {{0}};
#if PART == 2
  const bool sums_here = has_bias && column == 0 && x == 0;
  float by_filter[4] = {0};
#endif

  for (int first = begin; first < end; first += SIDE) {
    for (int i = item; i < SIDE * SPAN; i += SIDE * SIDE) {
      const int step = first + i / SPAN, at = i % SPAN;
      tile_a[i / SPAN][at] = row + at < m && step < end ? left_of(a, row + at, step, GIVEN) : 0.0f;
      tile_b[i / SPAN][at] =
        column + at < n && step < end ? right_of(b, taps, bases, step, column + at, GIVEN) : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
#if PART == 2
    if (sums_here)
      for (int step = 0; step < SIDE; step++)
        for (int i = 0; i < 4; i++) by_filter[i] += tile_a[step][y + i * SIDE];
#endif
    for (int step = 0; step < SIDE; step++) {
      float from_a[4], from_b[4];
      for (int i = 0; i < 4; i++) from_a[i] = tile_a[step][y + i * SIDE];
      for (int j = 0; j < 4; j++) from_b[j] = tile_b[step][x + j * SIDE];
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] += from_a[i] * from_b[j];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

#if PART == 2
  __global float *totals = out + (size_t)get_num_groups(2) * m * n + (size_t)get_group_id(2) * m;
  if (sums_here)
    for (int i = 0; i < 4; i++)
      if (row + y + i * SIDE < m) totals[row + y + i * SIDE] = by_filter[i];
#endif
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      const int r = row + y + i * SIDE, c = column + x + j * SIDE;
      if (r >= m || c >= n) continue;
      float value = sum[i][j];
#if PART == 0
      if (has_bias) value += other[r];
      out[((size_t)(c / places) * filters + r) * places + c % places] = activate_1(value, function);
#elif PART == 1
      const size_t to = ((size_t)(c / (h * w)) * channels + r) * h * w + c % (h * w);
      out[to] = function ? derive_1(value, other[to], function) : value;
#else
      out[((size_t)get_group_id(2) * m + r) * n + c] = value;
#endif
    }
}

#if PART == 2
/* Add up the pieces of out[size], from first to last, and where there are more items, behind them
 * those of sums[filters]; an item is an element. */
__kernel void add_pieces(
  const __global float *pieces, __global float *out, ulong out_at, __global float *sums,
  ulong sums_at, int count, int filters, ulong size, ulong items)
{
  const ulong item = get_global_id(0);
  if (item >= items) return;
  const bool more = item >= size;
  const ulong stride = more ? filters : size;
  const __global float *from = more ? pieces + count * size + (item - size) : pieces + item;
  float sum = 0;
  for (int piece = 0; piece < count; piece++) sum += from[piece * stride];
  if (more) sums[sums_at + item - size] = sum;
  else out[out_at + item] = sum;
}
#endif
