/* Convolution for CPU devices with 32 registers of 16 floats, from few planes or to few: the forms of
 * conv.cl, over images laid out as there, with vectors of two groups of eight places.
 *
 * Tiles are of 20 vectors. In the gradient by the weights the minibatch is cut into `pieces`, as many for
 * a shape on every device, and their sums are added up at last: so delta is read from first to last.
 */

#define EACH_FEW(X) X(0) X(1) X(2) X(3) X(4)
#define FEW 5
#define FOUR(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)
#define TWO_GROUPS(a, b) ((float16)(LOAD8(a), LOAD8(b)))

/* out[b,f,place] = activate(bias[f] + sum over k of w[f,k] * x[b, base + tap]).
 *
 * One work-item takes `share` blocks of four pairs of groups of one image; a tile is five filters by
 * them. Where rows are whole groups the places of a block are neighbours in `out` too. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convolve_few(
  const __global float *x, ulong x_at, const __global float *w, ulong w_at, __global float *out,
  ulong out_at, const __global float *bias, ulong bias_at, const __global int *taps,
  const __global int *bases, int has_bias, int activation, int image, int filters, int k, int oh,
  int ow, int share)
{
  const int across = (ow + 7) / 8, groups = oh * across;
  const int first = get_global_id(0) * share, end = min(first + share, (groups + 7) / 8);
  x += x_at + (ulong)get_global_id(1) * image;
  w += w_at;
  out += out_at + (ulong)get_global_id(1) * filters * oh * ow;
  const bool flat = ow % 8 == 0;
  float sums[FEW * 64] __attribute__((aligned(64)));
  for (int block = first; block < end; block++) {
    const int from = block * 8, last = min(from + 8, groups);
#define POINT_PAIR(j)                                                                              \
  const __global float *one##j = x + bases[min(from + 2 * j, groups - 1)];                         \
  const __global float *two##j = x + bases[min(from + 2 * j + 1, groups - 1)];
    POINT_PAIR(0) POINT_PAIR(1) POINT_PAIR(2) POINT_PAIR(3)
    for (int f = 0; f < filters; f += FEW) {
#define POINT_FEW(i) const __global float *few##i = w + (size_t)min(f + i, filters - 1) * k;
      EACH_FEW(POINT_FEW)
#define START_PAIR(i, j) float16 pair##i##_##j = 0;
#define START_FEW(i) FOUR(START_PAIR, i)
      EACH_FEW(START_FEW)
      for (int step = 0; step < k; step++) {
        const int tap = taps[step];
#define FETCH_PAIR(j) const float16 b##j = TWO_GROUPS(one##j + tap, two##j + tap);
        FETCH_PAIR(0) FETCH_PAIR(1) FETCH_PAIR(2) FETCH_PAIR(3)
#define ADD_PAIR(i, j) pair##i##_##j += value * b##j;
#define ADD_FEW(i) { const float value = few##i[step]; FOUR(ADD_PAIR, i) }
        EACH_FEW(ADD_FEW)
      }
#define KEEP_PAIR(i, j) *(float16 *)(sums + i * 64 + j * 16) = pair##i##_##j;
#define KEEP_FEW(i) FOUR(KEEP_PAIR, i)
      EACH_FEW(KEEP_FEW)
      for (int i = f; i < min(f + FEW, filters); i++) {
        const float by = has_bias ? bias[bias_at + i] : 0;
        __global float *plane = out + (size_t)i * oh * ow;
        if (flat) {
          for (int group = from; group < last; group += 2) {
            const float16 value = *(const float16 *)(sums + (i - f) * 64 + (group - from) * 8) + by;
            store_some(plane + group * 8, activate_16(value, activation), (groups - group) * 8);
          }
          continue;
        }
        for (int group = from; group < last; group += 2) {
          const float16 value = *(const float16 *)(sums + (i - f) * 64 + (group - from) * 8) + by;
          float each[16] __attribute__((aligned(64)));
          *(float16 *)each = activate_16(value, activation);
          for (int lane = 0; lane < 16 && group + lane / 8 < last; lane++) {
            const int y = (group + lane / 8) / across, column = (group + lane / 8) % across * 8;
            if (column + lane % 8 < ow) plane[y * ow + column + lane % 8] = each[lane];
          }
        }
      }
    }
  }
}

/* sums[piece][filter][k] of delta[b,f,place] * x[b, base + tap], and behind them delta's own sums.
 *
 * delta's rows are 8 * across wide, zero past their end. One work-item takes `share` tiles of four
 * filters by five taps of a piece of `images` images, `block` of them at a time; each sum is one of
 * sixteen lanes, which are then added up by halves. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void weights_few(
  const __global float *x, ulong x_at, const __global float *delta, ulong delta_at,
  __global float *sums, const __global int *taps, const __global int *bases, int summed, int image,
  int filters, int k, int groups, int batch, int images, int block, int share)
{
  const int fives = (k + 4) / 5, tiles = (filters + 3) / 4 * fives, stride = groups * 8;
  const int tile_first = get_global_id(0) * share, tile_end = min(tile_first + share, tiles);
  const int piece_first = get_global_id(1) * images, piece_end = min(piece_first + images, batch);
  x += x_at;
  delta += delta_at;
  sums += get_global_id(1) * (size_t)filters * (k + 1);
  for (int b_first = piece_first; b_first < piece_end; b_first += block) {
    const int b_end = min(b_first + block, piece_end);
    const bool more = b_first > piece_first;
    for (int tile = tile_first; tile < tile_end; tile++) {
      const int f = tile / fives * 4, step = tile % fives * 5;
#define TAP(i) const int t##i = taps[min(step + i, k - 1)];
      EACH_FEW(TAP)
      EACH_FEW(START_FEW)
      for (int b = b_first; b < b_end; b++) {
        const __global float *of = x + (ulong)b * image;
        const __global float *by = delta + (ulong)b * filters * stride;
#define POINT_FILTER(j) const __global float *by##j = by + (size_t)min(f + j, filters - 1) * stride;
        POINT_FILTER(0) POINT_FILTER(1) POINT_FILTER(2) POINT_FILTER(3)
        int group = 0;
        for (; group + 2 <= groups; group += 2) {
          const __global float *one = of + bases[group], *two = of + bases[group + 1];
#define FETCH_DELTA(j) const float16 b##j = LOAD16(by##j + group * 8);
          FETCH_DELTA(0) FETCH_DELTA(1) FETCH_DELTA(2) FETCH_DELTA(3)
#define ADD_TAPS(i) { const float16 value = TWO_GROUPS(one + t##i, two + t##i); FOUR(ADD_PAIR, i) }
          EACH_FEW(ADD_TAPS)
        }
        if (group < groups) {
          const __global float *one = of + bases[group];
#define FETCH_LAST(j) const float16 b##j = (float16)(LOAD8(by##j + group * 8), (float8)0);
          FETCH_LAST(0) FETCH_LAST(1) FETCH_LAST(2) FETCH_LAST(3)
#define ADD_LAST(i) { const float16 value = TWO_GROUPS(one + t##i, one + t##i); FOUR(ADD_PAIR, i) }
          EACH_FEW(ADD_LAST)
        }
      }
#define ADD_UP(i, j)                                                                               \
  if (step + i < k && f + j < filters) {                                                           \
    __global float *to = sums + (size_t)(f + j) * k + step + i;                                    \
    const float value = sum_16(pair##i##_##j);                                                     \
    *to = more ? *to + value : value;                                                              \
  }
#define ADD_UP_FEW(i) FOUR(ADD_UP, i)
      EACH_FEW(ADD_UP_FEW)
      if (summed && step == 0)
        for (int i = f; i < min(f + 4, filters); i++) {
          float8 sum = 0;
          for (int b = b_first; b < b_end; b++) {
            const __global float *by = delta + ((ulong)b * filters + i) * stride;
            for (int place = 0; place < stride; place += 8) sum += LOAD8(by + place);
          }
          __global float *to = sums + (size_t)filters * k + i;
          *to = (more ? *to : 0) + sum_16((float16)(sum, (float8)0));
        }
    }
  }
}

/* out[f,k] and delta's own sums: the pieces added up. An item is an element, the last ones the sums. */
__kernel void add_few(
  const __global float *sums, __global float *out, ulong out_at, __global float *filter_sums,
  ulong filter_sums_at, int pieces, int filters, int k, ulong items, int share)
{
  const size_t size = (size_t)filters * k, piece = size + filters;
  EACH_ITEM(item)
  {
    float sum = sums[item];
    for (int i = 1; i < pieces; i++) sum += sums[item + i * piece];
    if (item < size)
      out[out_at + item] = sum;
    else
      filter_sums[filter_sums_at + item - size] = sum;
  }
}
