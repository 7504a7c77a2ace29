/* Convolution for CPU devices, without a matrix of patches.
 *
 * Eight neighbouring places of an output row are a group, `groups` in an image; they meet eight
 * neighbouring elements of x at each tap. `bases` holds where in an image of x a group begins, `taps`
 * how far from there each tap lies (k = c * window + tap of them), so one loop over k does all. Where
 * there is padding, a horizontal stride, or a row of no whole number of groups, `unfold` lays x out
 * first: zeros around it, and a row's elements apart by their place modulo the stride, so that
 * neighbours for a tap are neighbours in memory. A group that is wider than its row reads beyond it;
 * what comes of that is not stored, or is multiplied by a zero. Every sum has one order, whatever the
 * number of work-items.
 *
 * Tiles are of float8, 12 of them, for 16 registers (AVX2).
 */

DEFINE_ACTIVATIONS(8, float8)

#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define ROWS 6

/* The way back of `unfold`, times the derivative of the activation whose output y is. */
__kernel void fold(
  const __global float *x, __global float *out, ulong out_at, const __global float *y_of, ulong y_at,
  int h, int w, int padded_h, int row, int run, int phases, int pad_y, int pad_x, int derivative,
  ulong items, int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *from = x + item * padded_h * row;
    __global float *to = out + out_at + item * h * w;
    for (int y = 0; y < h; y++)
      for (int column = 0; column < w; column++) {
        const int place = column + pad_x;
        float value = from[(y + pad_y) * row + place % phases * run + place / phases];
        if (derivative)
          value = derive_1(value, y_of[y_at + item * h * w + y * w + column], derivative);
        to[y * w + column] = value;
      }
  }
}

/* Turn w[filters,k] over into out[k,filters]; an item is a row of it. */
__kernel void turn_weights(
  const __global float *w, ulong w_at, __global float *out, int filters, int k, ulong items,
  int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong item = first; item < min(first + share, items); item++)
    for (int f = 0; f < filters; f++) out[item * filters + f] = w[w_at + (ulong)f * k + item];
}

static inline void keep(
  __global float *to, float8 value, int count, int has_bias, float bias, int activation)
{
  if (has_bias) value += bias;
  value = activate_8(value, activation);
  if (count >= 8) {
    STORE8(to, value);
    return;
  }
  float each[8];
  *(float8 *)each = value;
  for (int x = 0; x < count; x++) to[x] = each[x];
}

/* out[b,f,place] = activate(bias[f] + sum over k of w[f,k] * x[b, base + tap]).
 *
 * One work-item takes `share` pairs of groups of one image; a tile is six filters by a pair.
 */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convolve(
  const __global float *x, ulong x_at, const __global float *w, ulong w_at, __global float *out,
  ulong out_at, const __global float *bias, ulong bias_at, const __global int *taps,
  const __global int *bases, int has_bias, int activation, int image, int filters, int k, int oh,
  int ow, int share)
{
  const int across = (ow + 7) / 8, groups = oh * across;
  const int first = get_global_id(0) * share, end = min(first + share, (groups + 1) / 2);
  x += x_at + (ulong)get_global_id(1) * image;
  w += w_at;
  out += out_at + (ulong)get_global_id(1) * filters * oh * ow;
  for (int pair = first; pair < end; pair++) {
    const int one = 2 * pair, two = min(one + 1, groups - 1);
    const __global float *x_one = x + bases[one], *x_two = x + bases[two];
    const int column_one = one % across * 8, column_two = two % across * 8;
    __global float *to_one = out + one / across * ow + column_one;
    __global float *to_two = out + two / across * ow + column_two;
    for (int f = 0; f < filters; f += ROWS) {
#define POINT(i) const __global float *w##i = w + (ulong)min(f + i, filters - 1) * k;
      EACH_ROW(POINT)
#define START(i) float8 sum##i##_0 = 0, sum##i##_1 = 0;
      EACH_ROW(START)
      for (int step = 0; step < k; step++) {
        const int tap = taps[step];
        const float8 b0 = LOAD8(x_one + tap), b1 = LOAD8(x_two + tap);
#define ADD(i) { const float a = w##i[step]; sum##i##_0 += a * b0; sum##i##_1 += a * b1; }
        EACH_ROW(ADD)
      }
#define KEEP(i)                                                                                    \
  if (f + i < filters) {                                                                           \
    const float by = has_bias ? bias[bias_at + f + i] : 0;                                         \
    const size_t plane = (size_t)(f + i) * oh * ow;                                                \
    keep(to_one + plane, sum##i##_0, ow - column_one, has_bias, by, activation);                   \
    keep(to_two + plane, sum##i##_1, ow - column_two, has_bias, by, activation);                   \
  }
      EACH_ROW(KEEP)
    }
  }
}

static inline void add8(__global float *to, float8 value, int count)
{
  if (count >= 8) {
    STORE8(to, LOAD8(to) + value);
    return;
  }
  float each[8];
  *(float8 *)each = value;
  for (int x = 0; x < count; x++) to[x] += each[x];
}

/* out[b,c,base + tap] += sum over f of w[f,k] * delta[b,f,place], for k of channel c.
 *
 * `turned` is w as [k,filters]; delta's rows are 8 * across wide. One work-item takes six channels of
 * one image; a tile is six channels by a pair, so that its sums go to different planes. `block` pairs
 * of delta stay in the cache while all taps pass by. Where out is the gradient itself and not laid
 * out, the derivative comes last.
 */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convolve_input(
  const __global float *delta, ulong delta_at, const __global float *turned, __global float *out,
  ulong out_at, const __global float *y, ulong y_at, const __global int *taps,
  const __global int *bases, int derivative, int channels, int plane, int filters, int window,
  int oh, int ow, int block)
{
  const int across = (ow + 7) / 8, groups = oh * across, pairs = (groups + 1) / 2;
  const int c = get_global_id(0) * ROWS, kept = min(ROWS, channels - c);
  const ulong begin = ((ulong)get_global_id(1) * channels + c) * plane;
  const int stride = groups * 8;
  delta += delta_at + (ulong)get_global_id(1) * filters * stride;
  out += out_at + begin;
  for (int place = 0; place < kept * plane; place++) out[place] = 0;
  for (int first = 0; first < pairs; first += block) {
    const int end = min(first + block, pairs);
    for (int tap = 0; tap < window; tap++) {
#define POINT_TURNED(i)                                                                            \
  const __global float *w##i = turned + ((ulong)min(c + i, channels - 1) * window + tap) * filters;
      EACH_ROW(POINT_TURNED)
      __global float *to = out + taps[tap];
      for (int pair = first; pair < end; pair++) {
        const int one = 2 * pair, two = min(one + 1, groups - 1);
        const __global float *d_one = delta + one * 8, *d_two = delta + two * 8;
        EACH_ROW(START)
        for (int step = 0; step < filters; step++) {
          const float8 b0 = LOAD8(d_one + (size_t)step * stride);
          const float8 b1 = LOAD8(d_two + (size_t)step * stride);
          EACH_ROW(ADD)
        }
        const int count_one = ow - one % across * 8;
        const int count_two = two == one ? 0 : ow - two % across * 8;
#define SPREAD(i)                                                                                  \
  if (i < kept) {                                                                                  \
    add8(to + i * plane + bases[one], sum##i##_0, count_one);                                      \
    add8(to + i * plane + bases[two], sum##i##_1, count_two);                                      \
  }
        EACH_ROW(SPREAD)
      }
    }
  }
  if (derivative)
    for (int place = 0; place < kept * plane; place++)
      out[place] = derive_1(out[place], y[y_at + begin + place], derivative);
}

static inline float sum8(float8 value)
{
  const float4 four = value.lo + value.hi;
  const float2 two = four.lo + four.hi;
  return two.x + two.y;
}

/* out[f,k] = sum over images and places of delta[b,f,place] * x[b, base + tap].
 *
 * delta's rows are 8 * across wide, zero past their end. One work-item takes three filters and
 * `share` quads of k; a tile is three filters by four taps, each a sum of eight lanes over `block`
 * images, which are then added up by halves. So are delta's own sums, by the first for its filters.
 */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convolve_weights(
  const __global float *x, ulong x_at, const __global float *delta, ulong delta_at,
  __global float *out, ulong out_at, __global float *sums, ulong sums_at, const __global int *taps,
  const __global int *bases, int summed, int image, int filters, int k, int groups, int batch,
  int block, int share)
{
  const int f = get_global_id(0) * 3, quads = (k + 3) / 4, stride = groups * 8;
  const int quad_first = get_global_id(1) * share, quad_end = min(quad_first + share, quads);
  const int f1 = min(f + 1, filters - 1), f2 = min(f + 2, filters - 1);
  x += x_at;
  delta += delta_at;
  out += out_at;
  for (int b_first = 0; b_first < batch; b_first += block) {
    const int b_end = min(b_first + block, batch);
    if (summed && quad_first == 0)
      for (int i = f; i < min(f + 3, filters); i++) {
        float8 sum = 0;
        for (int b = b_first; b < b_end; b++) {
          const __global float *by = delta + ((ulong)b * filters + i) * stride;
          for (int place = 0; place < stride; place += 8) sum += LOAD8(by + place);
        }
        sums[sums_at + i] = (b_first ? sums[sums_at + i] : 0) + sum8(sum);
      }
    for (int quad = quad_first; quad < quad_end; quad++) {
      const int step = quad * 4, last = k - 1;
      const int t0 = taps[step], t1 = taps[min(step + 1, last)];
      const int t2 = taps[min(step + 2, last)], t3 = taps[min(step + 3, last)];
#define EACH_CELL(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)
#define EACH_FILTER(X) EACH_CELL(X, 0) EACH_CELL(X, 1) EACH_CELL(X, 2)
#define START_CELL(i, j) float8 cell##i##_##j = 0;
      EACH_FILTER(START_CELL)
      for (int b = b_first; b < b_end; b++) {
        const __global float *of = x + (ulong)b * image;
        const __global float *by = delta + (ulong)b * filters * stride;
        const __global float *by0 = by + (size_t)f * stride, *by1 = by + (size_t)f1 * stride;
        const __global float *by2 = by + (size_t)f2 * stride;
        const __global float *of0 = of + t0, *of1 = of + t1, *of2 = of + t2, *of3 = of + t3;
        for (int group = 0; group < groups; group++) {
          const int base = bases[group];
          const float8 d0 = LOAD8(by0 + group * 8), d1 = LOAD8(by1 + group * 8);
          const float8 d2 = LOAD8(by2 + group * 8);
#define ADD_TAP(j)                                                                                 \
  {                                                                                                \
    const float8 at = LOAD8(of##j + base);                                                         \
    cell0_##j += d0 * at;                                                                          \
    cell1_##j += d1 * at;                                                                          \
    cell2_##j += d2 * at;                                                                          \
  }
          ADD_TAP(0)
          ADD_TAP(1)
          ADD_TAP(2)
          ADD_TAP(3)
        }
      }
#define KEEP_CELL(i, j)                                                                            \
  if (f + i < filters && step + j < k) {                                                           \
    __global float *to = out + (size_t)(f + i) * k + step + j;                                     \
    const float value = sum8(cell##i##_##j);                                                       \
    *to = b_first ? *to + value : value;                                                           \
  }
      EACH_FILTER(KEEP_CELL)
    }
  }
}
