/* Matrix product for GPUs: a work-group of 16 x 16 computes 64 x 64 through local memory.
 *
 * Each work-item holds 4 x 4 sums, spread 16 apart so that neighbours read and write neighbours.
 * Every element is summed over K from first to last; edges are padded with zeros. The sums of b's
 * columns are the first row's of work-items, in the first work-groups over M.
 */

#define SIDE 16
#define SPAN 64

__kernel __attribute__((reqd_work_group_size(SIDE, SIDE, 1)))
void product(ARGUMENTS)
{
  UNPACK_ARGUMENTS
  /* One column more than needed, so that a column's elements lie in different banks. */
  __local float tile_a[SIDE][SPAN + 1], tile_b[SIDE][SPAN + 1];
  const int x = get_local_id(0), y_local = get_local_id(1), item = y_local * SIDE + x;
  const int row = get_group_id(1) * SPAN, column = get_group_id(0) * SPAN;
  float sum[4][4] = {{0}}, total[4] = {0};
  const bool sums_here = summed && row == 0 && y_local == 0;

  for (int k_first = 0; k_first < k; k_first += SIDE) {
    for (int i = item; i < SIDE * SPAN; i += SIDE * SIDE) {
#if A_TURNED
      const int a_step = i / SPAN, a_row = i % SPAN;
      const size_t a_index = (size_t)(k_first + a_step) * m + row + a_row;
#else
      const int a_step = i % SIDE, a_row = i / SIDE;
      const size_t a_index = (size_t)(row + a_row) * k + k_first + a_step;
#endif
      tile_a[a_step][a_row] = row + a_row < m && k_first + a_step < k ? a[a_index] : 0.0f;
#if B_TURNED
      const int b_step = i % SIDE, b_column = i / SIDE;
      const size_t b_index = (size_t)(column + b_column) * k + k_first + b_step;
#else
      const int b_step = i / SPAN, b_column = i % SPAN;
      const size_t b_index = (size_t)(k_first + b_step) * n + column + b_column;
#endif
      tile_b[b_step][b_column] = column + b_column < n && k_first + b_step < k ? b[b_index] : 0.0f;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (sums_here)
      for (int step = 0; step < SIDE; step++)
        for (int j = 0; j < 4; j++) total[j] += tile_b[step][x + j * SIDE];
    for (int step = 0; step < SIDE; step++) {
      float from_a[4], from_b[4];
      for (int i = 0; i < 4; i++) from_a[i] = tile_a[step][y_local + i * SIDE];
      for (int j = 0; j < 4; j++) from_b[j] = tile_b[step][x + j * SIDE];
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] += from_a[i] * from_b[j];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
  }

  if (sums_here)
    for (int j = 0; j < 4; j++)
      if (column + x + j * SIDE < n) bias[column + x + j * SIDE] = total[j];
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      const int r = row + y_local + i * SIDE, c = column + x + j * SIDE;
      if (r < m && c < n) {
        float value = sum[i][j] * scale;
        if (has_bias) value += bias[c];
        if (has_residual) value += residual[(size_t)r * n + c];
        value = activate_1(value, activation);
        if (derivative) value = derive_1(value, y[(size_t)r * n + c], derivative);
        out[(size_t)r * n + c] = value;
      }
    }
}
