/* A convolution's gradient by its input, where that is not like a convolution forward: with strides, or
 * where the window sees much beyond delta (kernels/conv_wide.py chooses).
 *
 * Delta laid out channels-last is multiplied by all weights of a window's row, whose vectors go over
 * neighbouring taps and a panel of 64 channels at most. What comes of a block of places is added where
 * the row lies in the padded image, [row, column, channel], which stays in the core's second cache. Every
 * element has one order: of the window's rows, then of vectors, then of places.
 */

/* The elements of a window's row for so many channels. */
#define RUN_OF(columns) (per_row == 1 ? window_x * (columns) : (columns))

/* Pack weights as [panel of channels][run][panel of lanes][filter][lane], lanes without a weight zero.
 * `lanes` are those of a panel's panels. An item is a filter of a run of a panel of channels. */
__kernel void pack_runs(
  const __global float *weights, ulong weights_at, __global float *out, int16 shape, int lanes, ulong items,
  int share)
{
  UNPACK_SHAPE
  const int taps = window_y * window_x, room = WHOLE_16(RUN_OF(panel));
  weights += weights_at;
  EACH_ITEM(item)
  {
    const int f = item % filters, r = item / filters % runs, column = item / filters / runs * panel;
    const int columns = min(panel, channels - column), all = RUN_OF(columns);
    const __global float *from = weights + (size_t)f * k + column * taps + r * (per_row == 1 ? window_x : 1);
    __global float *to = out + (item / filters) * filters * room;
    for (int first = 0; first < all; first += lanes) {
      const int count = min(lanes, all - first), pitch = WHOLE_16(count);
      __global float *at = to + first * filters + f * pitch;
      for (int i = 0, lane = first; i < pitch; i++, lane++)
        at[i] = i < count ? from[lane % columns * taps + lane / columns] : 0;
    }
  }
}

/* Add block[count][pitch], `lanes` of each, where the places from `place` on meet a run of the image. */
static inline void add_block(
  const float *block, __global float *image, int place, int count, int ow, int next, int next_row,
  int lanes, int pitch)
{
  for (int i = place; i < place + count; i++, block += pitch) {
    __global float *to = image + i / ow * next_row + i % ow * next;
    int lane = 0;
    for (; lane + 16 <= lanes; lane += 16)
      STORE16(to + lane, LOAD16(to + lane) + *(const float16 *)(block + lane));
    for (; lane < lanes; lane++) to[lane] += block[lane];
  }
}

/* out[b,c,y,x] = sum over taps and f of w[f,c,tap] * delta[b,f,the place], times the derivative at y.
 * One work-item takes a panel of channels of `share` images. `by_place` is the shape of a convolution of
 * delta by one place. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void input_wide(
  const __global float *delta, const __global float *packed, __global float *out,
  const __global float *y, __global float *room, long16 numbers, int16 shape, int16 by_place)
{
  UNPACK_SHAPE
  const int derivative = numbers.s7, batch = numbers.s8, lanes = numbers.s9, share = numbers.sb;
  const int first = get_global_id(0) * share, end = min(first + share, batch);
  const int column = get_global_id(1) * panel, columns = min(panel, channels - column);
  const int all = RUN_OF(columns), places = oh * ow;
  delta += numbers.s0;
  out += numbers.s1;
  if (derivative) y += numbers.s3;
  packed += get_global_id(1) * (size_t)runs * filters * WHOLE_16(RUN_OF(panel));
  room += (get_global_id(1) * get_global_size(0) + get_global_id(0)) * numbers.s4;
  __global float *image = room + numbers.s5;
  float block[BLOCK * 64] __attribute__((aligned(64)));
  for (int b = first; b < end; b++) {
    lay(delta + (size_t)b * filters * places, room, filters, oh, ow, filters, 0, 0, 0, oh);
    clear(image, (h + 2 * pad_y) * row * columns);
    for (int r = 0; r < runs; r++)
      for (int lane = 0; lane < all; lane += lanes) {
        const __global float *from = packed + r * filters * WHOLE_16(RUN_OF(panel)) + lane * filters;
        const int at = (r / per_row * far_y * row + r % per_row * far_x) * columns + lane;
        const int some = min(lanes, all - lane);
        for (int place = 0; place < places; place += BLOCK) {
          const int last = min(place + BLOCK, places);
          switch ((some + 7) / 8) {
#undef CASE
#define CASE(eighths, width)                                                                       \
  case eighths:                                                                                    \
    places_##width(room, from, block, place, last, by_place);                                      \
    break;
            EACH_WIDTH(CASE)
          }
          add_block(block, image + at, place, last - place, ow, stride_x * columns,
                    stride_y * row * columns, some, WHOLE_16(some));
        }
      }
    const size_t begin = ((size_t)b * channels + column) * h * w;
    const int pitch = WHOLE_16(columns);
    for (int place = 0; place < h * w; place += BLOCK) {
      const int last = min(place + BLOCK, h * w);
      for (int i = place; i < last; i++) {
        const __global float *of = image + ((i / w + pad_y) * row + i % w + pad_x) * columns;
        for (int at = 0; at < columns; at += 16)
          *(float16 *)(block + (i - place) * pitch + at) = load_some(of + at, columns - at);
      }
      spread(block, out + begin + place, 0, y + begin + place, 0, 0, derivative, last - place, columns,
             pitch, (size_t)h * w);
    }
  }
}
