/* Tiles of TILE_ROWS rows by TILE_LANES * 16 columns; included once for each TILE_LANES of 1, 2 and 3.
 *
 * The sums stay in registers over one block of K (8 x 48 is 24 of AVX-512's 32 registers, 6 x 16 is
 * 12 of AVX2's 16). Where `resume` says so they go on from `out`, so every element is summed over K
 * from first to last, whatever the tile. Rows past M read the last row and are not stored. Columns
 * past N are zero in `packed`. `out` lies in the address space TILE_OUT, `a` in TILE_A (__global where
 * none is named). The functions are called tiles_1 to tiles_3, or as TILE_NAME says.
 *
 * Where TILE_AHEAD is 1 the first AHEAD tiles of a panel also ask for what is packed after it: `next` is
 * where that begins in B, `stride` what lies between two rows of B.
 */

#ifndef TILE_A
#define TILE_A __global
#endif
#ifndef TILE_NAME
#define TILE_NAME(lanes) tiles_##lanes
#endif

#undef ASK
#undef NEXT
#if TILE_AHEAD
#define NEXT , const __global float *next, int stride
#define ASK(line) later(LINE_OF_B(next, line, stride));
#else
#define NEXT
#define ASK(line)
#endif

#undef EACH_LANE
#undef TILES
#if TILE_LANES == 1
#define EACH_LANE(X, i) X(i, 0)
#define TILES TILE_NAME(1)
#elif TILE_LANES == 2
#define EACH_LANE(X, i) X(i, 0) X(i, 1)
#define TILES TILE_NAME(2)
#else
#define EACH_LANE(X, i) X(i, 0) X(i, 1) X(i, 2)
#define TILES TILE_NAME(3)
#endif

static inline void TILES(
  const TILE_A float *a, const float *packed, TILE_OUT float *out, int m, int n, int k,
  int first_row, int end_row, int column, int columns, int k_first, int depth, bool resume NEXT)
{
  for (int row = first_row; row < end_row; row += TILE_ROWS) {
    const bool whole = columns == TILE_LANES * 16 && row + TILE_ROWS <= m;
    TILE_OUT float *corner = out + (size_t)row * n + column;
#if A_PACKED
#define POINT(i) const TILE_A float *a##i = a + (size_t)row * k + (size_t)k_first * TILE_ROWS + i;
#define A_STEP TILE_ROWS
#else
#define POINT(i) const TILE_A float *a##i = a + (size_t)min(row + i, m - 1) * k + k_first;
#define A_STEP 1
#endif
    EACH_ROW(POINT)

#define START(i, j) float16 sum##i##_##j = 0;
#define START_ROW(i) EACH_LANE(START, i)
    EACH_ROW(START_ROW)

    /* Indexing the sums themselves would force them out of registers; edges pass through memory. */
    float edge[TILE_ROWS * TILE_LANES * 16] __attribute__((aligned(64)));
    const int rows = min(TILE_ROWS, m - row);
    if (resume && whole) {
#define RESUME(i, j) sum##i##_##j = *(const TILE_OUT loose16 *)(corner + (size_t)i * n + j * 16);
#define RESUME_ROW(i) EACH_LANE(RESUME, i)
      EACH_ROW(RESUME_ROW)
    } else if (resume) {
      for (int i = 0; i < rows; i++)
        for (int x = 0; x < columns; x++) edge[i * TILE_LANES * 16 + x] = corner[(size_t)i * n + x];
#define RESUME_EDGE(i, j) sum##i##_##j = *(const float16 *)(edge + i * TILE_LANES * 16 + j * 16);
#define RESUME_EDGE_ROW(i) EACH_LANE(RESUME_EDGE, i)
      EACH_ROW(RESUME_EDGE_ROW)
    }

    const int asked = (row - first_row) / TILE_ROWS * (depth / AHEAD);
    const float *b = packed;
    for (int step = 0; step < depth; step++, b += TILE_LANES * 16) {
#define FETCH(i, j) const float16 b##j = *(const float16 *)(b + j * 16);
      EACH_LANE(FETCH, 0)
      ASK(asked + step / AHEAD)
#define ADD(i, j) sum##i##_##j += value##i * b##j;
#define ADD_ROW(i) const float value##i = a##i[(size_t)step * A_STEP]; EACH_LANE(ADD, i)
      EACH_ROW(ADD_ROW)
    }

    if (whole) {
#define KEEP(i, j) *(TILE_OUT loose16 *)(corner + (size_t)i * n + j * 16) = sum##i##_##j;
#define KEEP_ROW(i) EACH_LANE(KEEP, i)
      EACH_ROW(KEEP_ROW)
    } else {
#define KEEP_EDGE(i, j) *(float16 *)(edge + i * TILE_LANES * 16 + j * 16) = sum##i##_##j;
#define KEEP_EDGE_ROW(i) EACH_LANE(KEEP_EDGE, i)
      EACH_ROW(KEEP_EDGE_ROW)
      for (int i = 0; i < rows; i++)
        for (int x = 0; x < columns; x++) corner[(size_t)i * n + x] = edge[i * TILE_LANES * 16 + x];
    }
  }
}
