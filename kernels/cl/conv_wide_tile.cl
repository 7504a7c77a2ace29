/* Tiles of TILE_ROWS places or weights by TILE_WIDTH filters; included once for each width of 8 to 64.
 *
 * The sums stay in registers, 24 of 32 for most widths; a width that is no multiple of 16 ends with a
 * vector of 8. A step takes vectors of the one operand, and numbers one by one of the other.
 */

#undef EACH_WHOLE
#if TILE_WIDTH / 16 == 0
#define EACH_WHOLE(X, i)
#elif TILE_WIDTH / 16 == 1
#define EACH_WHOLE(X, i) X(i, 0, 0, 16)
#elif TILE_WIDTH / 16 == 2
#define EACH_WHOLE(X, i) X(i, 0, 0, 16) X(i, 1, 16, 16)
#elif TILE_WIDTH / 16 == 3
#define EACH_WHOLE(X, i) X(i, 0, 0, 16) X(i, 1, 16, 16) X(i, 2, 32, 16)
#else
#define EACH_WHOLE(X, i) X(i, 0, 0, 16) X(i, 1, 16, 16) X(i, 2, 32, 16) X(i, 3, 48, 16)
#endif
#undef EACH_LANE
#if TILE_WIDTH % 16
#define EACH_LANE(X, i) EACH_WHOLE(X, i) X(i, 4, TILE_WIDTH / 16 * 16, 8)
#else
#define EACH_LANE(X, i) EACH_WHOLE(X, i)
#endif
#undef PITCH
#define PITCH ((TILE_WIDTH + 15) / 16 * 16)

#define START(i, j, at, T) float##T sum##i##_##j = 0;
#define START_ROW(i) EACH_LANE(START, i)
#define FETCH(i, j, at, T) const float##T b##j = *(const __global loose##T *)(b + at);
#define ADD(i, j, at, T) sum##i##_##j += value##i * b##j;

/* sums[place][filter] = sum over k of x at the place * packed[k][filter], for the places from `first` on;
 * those past `end` take the last one. */
static inline void PLACES_BY(TILE_WIDTH)(
  const __global float *x, const __global float *packed, float *sums, int first, int end, int16 shape)
{
  UNPACK_SHAPE
  for (; first < end; first += TILE_ROWS, sums += TILE_ROWS * PITCH) {
    int place = first, column = first % ow;
    const __global float *at = x + (first / ow * stride_y * row + column * stride_x) * channels;
    const int next = stride_x * channels;
    const int next_row = (stride_y * row - (ow - 1) * stride_x) * channels;
#define POINT(i)                                                                                   \
  const __global float *x##i = at;                                                                 \
  if (++place < end) {                                                                             \
    const bool last = ++column == ow;                                                              \
    at += last ? next_row : next;                                                                  \
    column = last ? 0 : column;                                                                    \
  }
    EACH_ROW(POINT)
    EACH_ROW(START_ROW)
    const __global float *b = packed;
    for (int r = 0; r < runs; r++) {
      const size_t begin = OF_RUN(r), stop = begin + run;
      for (size_t step = begin; step < stop; step++, b += PITCH) {
        EACH_LANE(FETCH, 0)
#define ADD_PLACE(i) const float value##i = x##i[step]; EACH_LANE(ADD, i)
        EACH_ROW(ADD_PLACE)
      }
    }
#define KEEP(i, j, at, T) *(float##T *)(sums + i * PITCH + at) = sum##i##_##j;
#define KEEP_ROW(i) EACH_LANE(KEEP, i)
    EACH_ROW(KEEP_ROW)
  }
}

/* sums[weight][filter] += sum over places of x at the weight's place * delta[place][filter], for `count`
 * weights of a run and `rows` rows of places in each of some images that lie `image` elements apart; x
 * is where the first weight meets the first place. */
static inline void WEIGHTS_BY(TILE_WIDTH)(
  const __global float *x, const __global float *delta, __global float *sums, int count, int rows,
  int pitch, int images, size_t image, bool resume, int16 shape)
{
  UNPACK_SHAPE
  const size_t next = stride_x * channels, next_row = stride_y * row * channels;
  for (; count > 0; count -= TILE_ROWS, sums += TILE_ROWS * PITCH, x += TILE_ROWS) {
    EACH_ROW(START_ROW)
#define RESUME(i, j, at, T) sum##i##_##j = *(const __global loose##T *)(sums + i * PITCH + at);
#define RESUME_ROW(i) if (i < count) { EACH_LANE(RESUME, i) }
    if (resume) { EACH_ROW(RESUME_ROW) }
    const __global float *b = delta;
    for (int line = 0; line < images * rows; line++) {
      const __global float *of = x + line / rows * image + line % rows * next_row;
      for (int column = 0; column < ow; column++, b += pitch, of += next) {
        EACH_LANE(FETCH, 0)
#define ADD_WEIGHT(i) const float value##i = of[i]; EACH_LANE(ADD, i)
        EACH_ROW(ADD_WEIGHT)
      }
    }
#define STORE(i, j, at, T) *(__global loose##T *)(sums + i * PITCH + at) = sum##i##_##j;
#define STORE_ROW(i) if (i < count) { EACH_LANE(STORE, i) }
    EACH_ROW(STORE_ROW)
  }
}
