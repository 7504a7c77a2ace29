/* Pooling of x[B,C,H,W] over windows; an item is one plane [H,W].
 *
 * The way back of a maximum finds it again, as the first element of its window that equals it, so
 * that no index is kept. Windows may overlap: a plane's gradient is summed by one work-item, window
 * after window. `derivative` is that of the activation whose output x is.
 */

#define EACH_WINDOW                                                                                \
  for (int oy = 0; oy < oh; oy++)                                                                  \
    for (int ox = 0; ox < ow; ox++)
#define WINDOW                                                                                     \
  const int top = oy * stride_y - pad_y, left = ox * stride_x - pad_x;                             \
  const int y_first = max(top, 0), y_end = min(top + window_y, h);                                 \
  const int x_first = max(left, 0), x_end = min(left + window_x, w);
#define GEOMETRY                                                                                   \
  int h, int w, int oh, int ow, int window_y, int window_x, int stride_y, int stride_x, int pad_y, \
    int pad_x

/* A NaN must stay one: it is larger than everything. */
#define LARGER(a, b) (((b) > (a) || (b) != (b)) ? (b) : (a))
#define LARGER_4(a, b) ((((b) > (a)) | ((b) != (b))) ? (b) : (a))

static inline float window_max(
  const __global float *from, int w, int y_first, int y_end, int x_first, int x_end)
{
  float best = -INFINITY;
  for (int y = y_first; y < y_end; y++)
    for (int x = x_first; x < x_end; x++) best = LARGER(best, from[y * w + x]);
  return best;
}

__kernel void max_pool(
  const __global float *x, ulong x_at, __global float *out, ulong out_at, GEOMETRY, ulong items,
  int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const bool halves = window_y == 2 && window_x == 2 && stride_y == 2 && stride_x == 2 &&
                      pad_y == 0 && pad_x == 0;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *from = x + x_at + item * h * w;
    __global float *to = out + out_at + item * oh * ow;
    if (halves) {
      for (int oy = 0; oy < oh; oy++) {
        const __global float *one = from + 2 * oy * w, *two = one + w;
        int ox = 0;
#if LANES == 16
        for (; ox + 4 <= ow; ox += 4) {
          const float8 above = LOAD8(one + 2 * ox), below = LOAD8(two + 2 * ox);
          const float4 a = LARGER_4(above.even, above.odd), b = LARGER_4(below.even, below.odd);
          *(__global loose4 *)(to + oy * ow + ox) = LARGER_4(a, b);
        }
#endif
        for (; ox < ow; ox++) {
          const float a = LARGER(one[2 * ox], one[2 * ox + 1]);
          const float b = LARGER(two[2 * ox], two[2 * ox + 1]);
          to[oy * ow + ox] = LARGER(a, b);
        }
      }
      continue;
    }
    EACH_WINDOW
    {
      WINDOW
      to[oy * ow + ox] = window_max(from, w, y_first, y_end, x_first, x_end);
    }
  }
}

__kernel void max_pool_back(
  const __global float *delta, ulong delta_at, const __global float *x, ulong x_at,
  __global float *out, ulong out_at, GEOMETRY, int derivative, ulong items, int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  const bool halves = window_y == 2 && window_x == 2 && stride_y == 2 && stride_x == 2 &&
                      pad_y == 0 && pad_x == 0;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *from = delta + delta_at + item * oh * ow;
    const __global float *y_of = x + x_at + item * h * w;
    __global float *to = out + out_at + item * h * w;
    if (halves) {
      for (int oy = 0; oy < oh; oy++) {
        const __global float *one = y_of + 2 * oy * w, *two = one + w;
        __global float *to_one = to + 2 * oy * w, *to_two = to_one + w;
        int ox = 0;
#if LANES == 16
        for (; ox + 4 <= ow; ox += 4) {
          const float8 above = LOAD8(one + 2 * ox), below = LOAD8(two + 2 * ox);
          const float4 ab = LARGER_4(above.even, above.odd), cd = LARGER_4(below.even, below.odd);
          const float4 best = LARGER_4(ab, cd), none = 0;
          const float4 given = *(const __global loose4 *)(from + oy * ow + ox);
          const int4 is_a = above.even == best, is_b = ~is_a & (above.odd == best);
          const int4 is_c = ~(is_a | is_b) & (below.even == best);
          const int4 is_d = ~(is_a | is_b | is_c) & (below.odd == best);
          float8 to_above, to_below;
          to_above.even = is_a ? given : none;
          to_above.odd = is_b ? given : none;
          to_below.even = is_c ? given : none;
          to_below.odd = is_d ? given : none;
          STORE8(to_one + 2 * ox, to_above);
          STORE8(to_two + 2 * ox, to_below);
        }
#endif
        for (; ox < ow; ox++) {
          const float a = one[2 * ox], b = one[2 * ox + 1], c = two[2 * ox], d = two[2 * ox + 1];
          const float ab = LARGER(a, b), cd = LARGER(c, d), best = LARGER(ab, cd);
          const float given = from[oy * ow + ox];
          const bool is_a = a == best, is_b = !is_a && b == best;
          const bool is_c = !is_a && !is_b && c == best;
          to_one[2 * ox] = is_a ? given : 0;
          to_one[2 * ox + 1] = is_b ? given : 0;
          to_two[2 * ox] = is_c ? given : 0;
          to_two[2 * ox + 1] = !is_a && !is_b && !is_c && d == best ? given : 0;
        }
        for (int edge = 2 * ow; edge < w; edge++) to_one[edge] = to_two[edge] = 0;
      }
      for (int edge = 2 * oh * w; edge < h * w; edge++) to[edge] = 0;
    } else {
      for (int place = 0; place < h * w; place++) to[place] = 0;
      EACH_WINDOW
      {
        WINDOW
        const float best = window_max(y_of, w, y_first, y_end, x_first, x_end);
        bool found = false;
        for (int y = y_first; y < y_end && !found; y++)
          for (int place = y * w + x_first; place < y * w + x_end && !found; place++)
            if (y_of[place] == best) {
              to[place] += from[oy * ow + ox];
              found = true;
            }
      }
    }
    if (derivative)
      for (int place = 0; place < h * w; place++)
        to[place] = derive_1(to[place], y_of[place], derivative);
  }
}

/* The mean of those elements of a window that lie in the plane. */
__kernel void mean_pool(
  const __global float *x, ulong x_at, __global float *out, ulong out_at, GEOMETRY, ulong items,
  int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *from = x + x_at + item * h * w;
    __global float *to = out + out_at + item * oh * ow;
    EACH_WINDOW
    {
      WINDOW
      float sum = 0;
      for (int y = y_first; y < y_end; y++)
        for (int place = y * w + x_first; place < y * w + x_end; place++) sum += from[place];
      to[oy * ow + ox] = sum / ((y_end - y_first) * (x_end - x_first));
    }
  }
}

__kernel void mean_pool_back(
  const __global float *delta, ulong delta_at, const __global float *x, ulong x_at,
  __global float *out, ulong out_at, GEOMETRY, int derivative, ulong items, int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *from = delta + delta_at + item * oh * ow;
    __global float *to = out + out_at + item * h * w;
    for (int place = 0; place < h * w; place++) to[place] = 0;
    EACH_WINDOW
    {
      WINDOW
      const float given = from[oy * ow + ox] / ((y_end - y_first) * (x_end - x_first));
      for (int y = y_first; y < y_end; y++)
        for (int place = y * w + x_first; place < y * w + x_end; place++) to[place] += given;
    }
    if (derivative)
      for (int place = 0; place < h * w; place++)
        to[place] = derive_1(to[place], x[x_at + item * h * w + place], derivative);
  }
}
