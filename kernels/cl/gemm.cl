/* Matrix product for CPU devices: one work-item computes `rows` rows of `group` columns.
 *
 * It packs up to DEPTH rows of its columns of B at a time, in panels of PANEL columns, into private
 * memory, which stays in the core's cache while every row passes by: the blocking of Goto and van de
 * Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), with the packing inside. A is
 * read where it lies: the rows of a tile are as many streams. In the form "tn" A's rows are columns
 * in memory, and HEIGHT of them at a time are packed too. While the first tiles of each panel are
 * computed, the memory that is packed next is asked for: else the core would wait for it, and long
 * where few rows pass by.
 */

/* Pack b[K,N]: `depth` rows of `columns` columns, zero to the next multiple of 16. */
static inline void pack_straight(
  const __global float *from, float *to, int n, int columns, int width, int depth)
{
  if (columns == 48) {
    for (int step = 0; step < depth; step++, to += 48, from += n) {
      const float16 x = LOAD16(from), y = LOAD16(from + 16), z = LOAD16(from + 32);
      *(float16 *)to = x;
      *(float16 *)(to + 16) = y;
      *(float16 *)(to + 32) = z;
    }
    return;
  }
  for (int step = 0; step < depth; step++, to += width, from += n) {
    int x = 0;
    for (; x + 16 <= columns; x += 16) *(float16 *)(to + x) = LOAD16(from + x);
    for (; x < width; x++) to[x] = x < columns ? from[x] : 0.0f;
  }
}

/* Pack b[N,K], turned over. */
static inline void pack_turned(
  const __global float *from, float *to, int k, int columns, int width, int depth)
{
  for (int lane = 0; lane < width; lane += 16) {
    int step = 0;
    if (lane + 16 <= columns) {
      for (; step + 16 <= depth; step += 16) {
        float16 r[16];
#pragma unroll
        for (int i = 0; i < 16; i++) r[i] = LOAD16(from + (size_t)(lane + i) * k + step);
        turn16(r);
#pragma unroll
        for (int i = 0; i < 16; i++) *(float16 *)(to + (step + i) * width + lane) = r[i];
      }
    }
    for (; step < depth; step++)
      for (int x = lane; x < lane + 16; x++)
        to[step * width + x] = x < columns ? from[(size_t)x * k + step] : 0.0f;
  }
}

/* Pack b[K,N] for all the panels of a group at once: what lies side by side is read together, for
 * rows a power of two apart drive each other out of the cache. */
static inline void pack_group(const __global float *from, float *to, int n, int columns, int depth)
{
  const int whole = columns / PANEL * PANEL;
  for (int step = 0; step < depth; step++) {
    const __global float *row = from + (size_t)step * n;
    for (int x = 0; x < columns; x += 16) soon(row + (size_t)8 * n + x);
    for (int x = 0; x < whole; x += PANEL)
#pragma unroll
      for (int i = 0; i < PANEL; i += 16)
        *(float16 *)(to + x * depth + step * PANEL + i) = LOAD16(row + x + i);
  }
  const int rest = columns - whole;
  if (rest) pack_straight(from + whole, to + whole * depth, n, rest, (rest + 15) / 16 * 16, depth);
}

/* Return how many of the rows go in tiles of TILE_ROWS; tiles of 4 take the others. */
static inline int in_tiles(int rows)
{
  const int rest = rows % TILE_ROWS;
  if (rest == 0 || rest > 4) return rows;
  return rows - rest - (TILE_ROWS + rest <= 8 && rows > TILE_ROWS ? TILE_ROWS : 0);
}

#if A_PACKED
/* Pack `tile` columns of a[K,M], zero past the first `columns`. */
static inline void pack_tile(
  const __global float *from, float *to, int m, int columns, int tile, int depth)
{
  for (int step = 0; step < depth; step++, from += m, to += tile)
    for (int i = 0; i < tile; i++) to[i] = i < columns ? from[i] : 0.0f;
}

/* Pack `rows` columns of a[K,M] into one panel for each tile of rows. */
static inline void pack_rows(const __global float *from, float *to, int m, int rows, int depth)
{
  const int end = in_tiles(rows), whole = end / TILE_ROWS * TILE_ROWS;
  /* Eight at a time: what a step writes too much, the next one writes over. */
  for (int step = 0; step < depth - 1; step++) {
    const __global float *row = from + (size_t)step * m;
    for (int x = 0; x < whole; x += TILE_ROWS)
      *(loose8 *)(to + x * depth + step * TILE_ROWS) = LOAD8(row + x);
  }
  const size_t last = depth - 1;
  for (int x = 0; x < whole; x += TILE_ROWS)
    pack_tile(from + last * m + x, to + x * depth + last * TILE_ROWS, m, TILE_ROWS, TILE_ROWS, 1);
  if (whole < end) pack_tile(from + whole, to + whole * depth, m, end - whole, TILE_ROWS, depth);
  for (int x = end; x < rows; x += 4)
    pack_tile(from + x, to + x * depth, m, rows - x, 4, depth);
}
#endif

/* Add the rows of what is packed to sums, 16 columns at a time; panels lie one after another. */
static inline void add_rows(
  const float *packed, __global float *sums, int columns, int depth, bool resume)
{
  for (int panel = 0; panel < columns; panel += PANEL) {
    const int width = min(PANEL, (columns - panel + 15) / 16 * 16);
    for (int lane = 0; lane < width && panel + lane < columns; lane += 16) {
      const int count = min(16, columns - panel - lane);
      __global float *to = sums + panel + lane;
      float16 sum = 0;
      float edge[16] __attribute__((aligned(64))) = {0};
      if (resume && count == 16) sum = LOAD16(to);
      if (resume && count < 16) {
        for (int x = 0; x < count; x++) edge[x] = to[x];
        sum = *(const float16 *)edge;
      }
      const float *from = packed + panel * depth + lane;
      for (int step = 0; step < depth; step++, from += width) sum += *(const float16 *)from;
      if (count == 16) {
        STORE16(to, sum);
        continue;
      }
      *(float16 *)edge = sum;
      for (int x = 0; x < count; x++) to[x] = edge[x];
    }
  }
}

/* Apply the epilogue to what was just stored and is still in the cache. */
static inline void finish(
  __global float *out, const __global float *bias, const __global float *y,
  const __global float *residual, int has_bias, int has_residual, float scale, int activation,
  int derivative, int n, int first_row, int end_row, int column, int columns)
{
  for (int row = first_row; row < end_row; row++) {
    __global float *to = out + (size_t)row * n + column;
    int x = 0;
    for (; x + 16 <= columns; x += 16) {
      float16 value = LOAD16(to + x) * scale;
      if (has_bias) value += LOAD16(bias + column + x);
      if (has_residual) value += LOAD16(residual + (size_t)row * n + column + x);
      value = activate_16(value, activation);
      if (derivative) value = derive_16(value, LOAD16(y + (size_t)row * n + column + x), derivative);
      STORE16(to + x, value);
    }
    for (; x < columns; x++) {
      float value = to[x] * scale;
      if (has_bias) value += bias[column + x];
      if (has_residual) value += residual[(size_t)row * n + column + x];
      value = activate_1(value, activation);
      if (derivative) value = derive_1(value, y[(size_t)row * n + column + x], derivative);
      to[x] = value;
    }
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void product(ARGUMENTS)
{
  UNPACK_ARGUMENTS
  const int group = numbers.sb, rows = numbers.sc, block = numbers.sd;
  const int first_column = get_global_id(0) * group;
  const int end_column = min(first_column + group, n);
  const int first_row = get_global_id(1) * rows;
  const int end_row = min(first_row + rows, m);
  float packed[DEPTH * GROUP] __attribute__((aligned(64)));
#if A_PACKED
  float left[DEPTH * HEIGHT] __attribute__((aligned(64)));
#endif

  for (int k_first = 0; k_first < k; k_first += block) {
    const int depth = min(block, k - k_first);
#if B_TURNED
#define NEXT_B b + (size_t)next_panel * k + next_row, k
    for (int column = first_column; column < end_column; column += PANEL) {
      const int columns = min(PANEL, end_column - column);
      pack_turned(b + (size_t)column * k + k_first, packed + (column - first_column) * depth, k,
                  columns, (columns + 15) / 16 * 16, depth);
    }
#else
#define NEXT_B b + (size_t)next_row * n + next_panel, n
    pack_group(b + (size_t)k_first * n + first_column, packed, n, end_column - first_column, depth);
#endif
    if (summed && first_row == 0)
      add_rows(packed, bias + first_column, end_column - first_column, depth, k_first > 0);
    /* Next are more rows of B for this item, or the columns of the item that follows. */
    const bool more = k_first + depth < k, ahead = more || end_column < n;
    const int next_row = more ? k_first + depth : 0, next_column = more ? first_column : end_column;
    for (int row = first_row; row < end_row; row += HEIGHT) {
      const int high = min(HEIGHT, end_row - row), middle = in_tiles(high);
      const int first = ahead && row == first_row ? min(middle, AHEAD * TILE_ROWS) : 0;
      __global float *to = out + (size_t)row * n;
#if A_PACKED
      pack_rows(a + (size_t)k_first * m + row, left, m, high, depth);
#define OF_A left, panel, to, high, n, depth
#define OF_K 0, depth, k_first > 0
#else
#define OF_A a + (size_t)row * k, panel, to, high, n, k
#define OF_K k_first, depth, k_first > 0
#endif
      for (int column = first_column; column < end_column; column += PANEL) {
        const int columns = min(PANEL, end_column - column);
        const float *panel = packed + (column - first_column) * depth;
        const int next_panel = next_column + column - first_column;
#define ROWS(lanes)                                                                                \
  if (first) ahead_##lanes(OF_A, 0, first, column, columns, OF_K, NEXT_B);                         \
  tiles_##lanes(OF_A, first, middle, column, columns, OF_K);                                       \
  tails_##lanes(OF_A, middle, high, column, columns, OF_K);
#if PANEL == 48
        if (columns > 32) {
          ROWS(3)
          continue;
        }
        if (columns > 16) {
          ROWS(2)
          continue;
        }
#endif
        ROWS(1)
      }
    }
  }
  if (has_bias || has_residual || scale != 1 || activation || derivative)
    finish(out, bias, y, residual, has_bias, has_residual, scale, activation, derivative, n,
           first_row, end_row, first_column, end_column - first_column);
}
