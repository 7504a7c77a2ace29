/* What the convolutions for 32 registers of 16 floats share: their numbers, and images laid out
 * channels-last.
 *
 * An image is taken in parts of some output rows. A work-item lays the rows of x that a part sees out
 * as [row, column, channel] in a room of its own, with zeros for the padding: this stays in the core's
 * cache while all filters pass by. A window's row of neighbouring taps is then a run of memory,
 * `run` elements; there are `runs` of them, and one weight's number is (run, column, channel).
 */

/* The shape, in the order of `kernels.conv_wide`. */
#define UNPACK_SHAPE                                                                               \
  const int channels = shape.s0, h = shape.s1, w = shape.s2, pad_y = shape.s3, pad_x = shape.s4;   \
  const int stride_y = shape.s5, stride_x = shape.s6, far_y = shape.s7, far_x = shape.s8;          \
  const int window_y = shape.s9, window_x = shape.sa, filters = shape.sb;                          \
  const int oh = shape.sc, ow = shape.sd, panel = shape.se;                                        \
  const int k = channels * window_y * window_x, row = w + 2 * pad_x;                               \
  const int span_y = (window_y - 1) * far_y + 1, per_row = far_x == 1 ? 1 : window_x;              \
  const int runs = window_y * per_row, run = k / runs;

/* Where a run begins, from where a window does. */
#define OF_RUN(r) (((r) / per_row * far_y * row + (r) % per_row * far_x) * channels)

#define WHOLE_16(count) (((count) + 15) / 16 * 16)

static inline void clear(__global float *to, int count)
{
  int at = 0;
  for (; at + 16 <= count; at += 16) STORE16(to + at, (float16)0);
  for (; at < count; at++) to[at] = 0;
}

/* Lay rows of x[channels,h,w] out as [rows, w + 2 * pad_x, pitch], from row `first` of the padded
 * image on; what lies outside and channels past the last are zero. */
static inline void lay(
  const __global float *x, __global float *to, int channels, int h, int w, int pitch, int pad_y,
  int pad_x, int first, int rows)
{
  const int row = w + 2 * pad_x, size = h * w;
  const int above = clamp(pad_y - first, 0, rows), from = first + above - pad_y;
  const int inside = clamp(h - from, 0, rows - above), below = rows - above - inside;
  if (pitch > channels) {
    clear(to, rows * row * pitch);
  } else {
    clear(to, above * row * pitch);
    clear(to + (above + inside) * row * pitch, below * row * pitch);
    for (int y = above; pad_x && y < above + inside; y++) {
      clear(to + y * row * pitch, pad_x * pitch);
      clear(to + (y * row + pad_x + w) * pitch, pad_x * pitch);
    }
  }
  x += from * w;
  to += (above * row + pad_x) * pitch;
  const int count = inside * w, jump = 2 * pad_x * pitch;
  if (channels < 16 || count < 16) {
    for (int c = 0; c < channels; c++)
      for (int y = 0; y < inside; y++)
        for (int column = 0; column < w; column++)
          to[(y * row + column) * pitch + c] = x[c * size + y * w + column];
    return;
  }
  /* The last channels and places that are no 16 are taken with some that were taken before. */
  for (int c = 0; c < channels; c += 16) {
    const int channel = min(c, channels - 16);
    for (int q = 0; q < count; q += 16) {
      const int place = min(q, count - 16);
      const __global float *of = x + (size_t)channel * size + place;
      float16 r[16];
#pragma unroll
      for (int i = 0; i < 16; i++) r[i] = LOAD16(of + (size_t)i * size);
      turn16(r);
      int column = place % w;
      __global float *at = to + (place / w * row + column) * pitch + channel;
#pragma unroll
      for (int i = 0; i < 16; i++) {
        STORE16(at, r[i]);
        column++;
        at += column == w ? pitch + jump : pitch;
        column = column == w ? 0 : column;
      }
    }
  }
}

/* Pack weights for the panels of `columns`: out[panel][step][lane], a panel's last lanes zero, from
 * w[lane * lane_far + (step % inner) * inner_far + tap], where the tap is step / inner, or counted from
 * the last one where `turned` says so. An item is a step. */
__kernel void pack_weights(
  const __global float *w, ulong w_at, __global float *out, int columns, int panel, int inner,
  int taps, int lane_far, int inner_far, int turned, ulong items, int share)
{
  w += w_at;
  EACH_ITEM(step)
  {
    const int tap = step / inner;
    const __global float *from = w + step % inner * inner_far + (turned ? taps - 1 - tap : tap);
    for (int first = 0; first < columns; first += panel) {
      const int count = min(panel, columns - first), pitch = WHOLE_16(count);
      __global float *to = out + first * items + step * pitch;
      for (int lane = 0; lane < pitch; lane++)
        to[lane] = lane < count ? from[(size_t)(first + lane) * lane_far] : 0;
    }
  }
}
