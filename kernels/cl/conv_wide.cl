/* Convolution for CPU devices with 32 registers of 16 floats, and its gradient by the input.
 *
 * Vectors are of filters, 64 at most at a time: the weights of such a panel are packed, and pass by
 * tiles of neighbouring places, whose elements of x are read one by one from a part laid out
 * channels-last (conv_wide_head.cl). A block of places has its sums turned over to the planes of `out`
 * while they are in the cache. Every sum goes over k from first to last, whatever the work-item.
 *
 * With a stride of 1 the gradient by the input is the same: of delta, padded by what is left of the
 * window, by the weights from last to first tap, with channels and filters exchanged.
 */

#define BLOCK 48

/* Turn the sums[count][pitch] of places over to their planes, each of `size`. */
static inline void spread(
  const float *sums, __global float *out, const __global float *bias, const __global float *y,
  int has_bias, int activation, int derivative, int count, int filters, int pitch, size_t size)
{
  for (int f = 0; f < filters; f += 16)
    for (int place = 0; place < count; place += 16) {
      const int some = min(16, filters - f), lanes = count - place;
      float16 r[16];
#pragma unroll
      for (int i = 0; i < 16; i++) r[i] = *(const float16 *)(sums + (place + i) * pitch + f);
      turn16(r);
      for (int i = 0; i < some; i++) {
        const size_t at = (f + i) * size + place;
        float16 value = r[i];
        if (has_bias) value += bias[f + i];
        value = activate_16(value, activation);
        if (derivative) value = derive_16(value, load_some(y + at, lanes), derivative);
        store_some(out + at, value, lanes);
      }
    }
}

/* out[b,f,place] = activate(bias[f] + sum over k of w[f,k] * x[b, what the place sees]), times the
 * derivative at y. One work-item takes `share` parts of images. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void convolve_wide(
  const __global float *x, const __global float *packed, __global float *out,
  const __global float *bias, const __global float *y, __global float *room, long16 numbers,
  int16 shape)
{
  UNPACK_SHAPE
  const int has_bias = numbers.s5, activation = numbers.s6, derivative = numbers.s7;
  const int batch = numbers.s8, parts = numbers.s9, part_rows = numbers.sa, share = numbers.sb;
  const int first = get_global_id(0) * share, end = min(first + share, batch * parts);
  x += numbers.s0;
  out += numbers.s1;
  if (has_bias) bias += numbers.s2;
  if (derivative) y += numbers.s3;
  room += get_global_id(0) * numbers.s4;
  float sums[BLOCK * 64] __attribute__((aligned(64)));
  for (int unit = first; unit < end; unit++) {
    const int b = unit / parts, y_first = unit % parts * part_rows;
    const int rows = min(part_rows, oh - y_first), places = rows * ow;
    lay(x + (size_t)b * channels * h * w, room, channels, h, w, channels, pad_y, pad_x,
        y_first * stride_y, (rows - 1) * stride_y + span_y);
    for (int column = 0; column < filters; column += panel) {
      const int columns = min(panel, filters - column);
      const __global float *from = packed + (size_t)column * k;
      const size_t begin = ((size_t)b * filters + column) * oh * ow + y_first * ow;
      for (int place = 0; place < places; place += BLOCK) {
        const int last = min(place + BLOCK, places);
        switch ((columns + 7) / 8) {
#undef CASE
#define CASE(eighths, width)                                                                       \
  case eighths:                                                                                    \
    places_##width(room, from, sums, place, last, shape);                                          \
    break;
          EACH_WIDTH(CASE)
        }
        spread(sums, out + begin + place, bias + column, y + begin + place, has_bias, activation,
               derivative, last - place, columns, WHOLE_16(columns), (size_t)oh * ow);
      }
    }
  }
}
