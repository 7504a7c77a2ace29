/* A convolution's gradient by its weights, for CPU devices with 32 registers of 16 floats.
 *
 * The minibatch is cut into `pieces`, as many for a shape on every device. A work-item takes some chunks
 * of the weights, and all images of a piece, part by part, or several small ones at once: it lays out x
 * and delta channels-last. A block of delta's rows stays in the first cache while all chunks pass by, and
 * the sums in the second one. The pieces' sums are added up at last. So every sum has one order.
 */

#define CHUNK 24

/* Add a block's delta[places,pitch] to sums[pitch]. */
static inline void add_places(
  const __global float *delta, __global float *sums, int places, int pitch, bool resume)
{
  for (int lane = 0; lane < pitch; lane += 16) {
    float16 sum = 0;
    if (resume) sum = load_some(sums + lane, 16);
    for (int place = 0; place < places; place++) sum += LOAD16(delta + place * pitch + lane);
    store_some(sums + lane, sum, 16);
  }
}

/* sums[piece][panel][weight][filter], and behind them delta's own sums. Where `several` images are taken
 * at once, each is one part and one block. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void weights_wide(
  const __global float *x, const __global float *delta, __global float *sums, __global float *room,
  long16 numbers, int16 shape)
{
  UNPACK_SHAPE
  const int images = numbers.s5, summed = numbers.s6, block = numbers.s7, several = numbers.sc;
  const int batch = numbers.s8, parts = numbers.s9, part_rows = numbers.sa, share = numbers.sb;
  const int pitch = WHOLE_16(filters), in_run = (run + CHUNK - 1) / CHUNK;
  const int chunk_first = get_global_id(0) * share, chunk_end = min(chunk_first + share, runs * in_run);
  const int b_first = get_global_id(1) * images, b_end = min(b_first + images, batch);
  x += numbers.s0;
  delta += numbers.s1;
  sums += get_global_id(1) * (size_t)(k + 1) * pitch;
  room += (get_global_id(1) * get_global_size(0) + get_global_id(0)) * numbers.s4;
  __global float *by = room, *of = room + numbers.s3;
  for (int b = b_first; b < b_end; b += several)
    for (int part = 0; part < parts; part++) {
      const int y_first = part * part_rows, y_end = min(y_first + part_rows, oh);
      const int here = min(several, b_end - b);
      const size_t image = ((y_end - y_first - 1) * stride_y + span_y) * row * channels;
      for (int i = 0; i < here; i++) {
        lay(x + (size_t)(b + i) * channels * h * w, of + i * image, channels, h, w, channels, pad_y,
            pad_x, y_first * stride_y, (y_end - y_first - 1) * stride_y + span_y);
        lay(delta + (size_t)(b + i) * filters * oh * ow, by + (size_t)i * oh * ow * pitch, filters, oh,
            ow, pitch, 0, 0, y_first, y_end - y_first);
      }
      for (int y = y_first; y < y_end; y += block) {
        const int rows = min(block, y_end - y);
        const __global float *by_block = by + (y - y_first) * ow * pitch;
        const __global float *of_block = of + (y - y_first) * stride_y * row * channels;
        const bool resume = b > b_first || y > 0;
        if (summed && chunk_first == 0)
          add_places(by_block, sums + (size_t)k * pitch, here * rows * ow, pitch, resume);
        for (int column = 0; column < filters; column += panel) {
          const int columns = min(panel, filters - column), wide = WHOLE_16(columns);
          for (int chunk = chunk_first; chunk < chunk_end; chunk++) {
            const int r = chunk / in_run, begin = chunk % in_run * CHUNK;
            const int count = min(CHUNK, run - begin);
            const __global float *from = of_block + OF_RUN(r) + begin;
            __global float *to = sums + (size_t)column * k + (r * run + begin) * wide;
            switch ((columns + 7) / 8) {
#undef CASE
#define CASE(eighths, width)                                                                       \
  case eighths:                                                                                    \
    weights_##width(from, by_block + column, to, count, rows, pitch, here, image, resume,          \
                    shape);                                                                        \
    break;
              EACH_WIDTH(CASE)
            }
          }
        }
      }
    }
}

/* out[f,c,tap] and delta's own sums: the pieces added up. An item is a step of k, the last one the sums. */
__kernel void add_pieces(
  const __global float *sums, __global float *out, ulong out_at, __global float *filter_sums,
  ulong filter_sums_at, int pieces, int filters, int channels, int taps, int panel, ulong items,
  int share)
{
  const int k = channels * taps, pitch = WHOLE_16(filters);
  const size_t piece = (size_t)(k + 1) * pitch;
  out += out_at;
  EACH_ITEM(step)
  for (int f = 0; f < filters; f += 16) {
    const int column = f / panel * panel, wide = WHOLE_16(min(panel, filters - column));
    const size_t in_panel = (size_t)column * k + step * wide + f - column;
    const __global float *from = sums + (step < k ? in_panel : (size_t)k * pitch + f);
    float16 sum = LOAD16(from);
    for (int i = 1; i < pieces; i++) sum += LOAD16(from + i * piece);
    if (step == k) {
      store_some(filter_sums + filter_sums_at + f, sum, filters - f);
      continue;
    }
    float each[16] __attribute__((aligned(64)));
    *(float16 *)each = sum;
    const size_t to = step % channels * taps + step / channels;
    for (int i = 0; i < min(16, filters - f); i++) out[(size_t)(f + i) * k + to] = each[i];
  }
}
