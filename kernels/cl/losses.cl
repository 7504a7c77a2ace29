/* Losses with their gradients; an item is a row [n] of `output`.
 *
 * Each row's loss and hit go to rows[2,items], which sum_rows adds up: the order of that sum then
 * depends on the number of rows alone.
 */

#define LOSS(NAME, TARGET)                                                                         \
  __kernel void NAME(                                                                              \
    const __global float *output, ulong output_at, const __global TARGET *target,                  \
    ulong target_at, __global float *delta, ulong delta_at, __global float *rows, ulong rows_at,   \
    int n, ulong items, int share)
#define ROW                                                                                        \
  const __global float *x = output + output_at + row * n;                                          \
  __global float *d = delta + delta_at + row * n;
#define RESULT(loss, hit)                                                                          \
  rows[rows_at + row] = loss;                                                                      \
  rows[rows_at + items + row] = (hit) ? 1.0f : 0.0f;

/* Softmax shifted by the row's maximum; a label outside 0..n-1 gives NaN. */
LOSS(softmax_cross_entropy, int)
{
  EACH_ITEM(row)
  {
    ROW
    const int label = target[target_at + row];
    const bool known = label >= 0 && label < n;
    int top = 0;
    for (int c = 1; c < n; c++)
      if (x[c] > x[top]) top = c;
    const float highest = x[top];
    const float picked = known ? x[label] - highest : NAN;
    float total = 0;
    for (int c = 0; c < n; c++) {
      const float e = exp(x[c] - highest);
      d[c] = e;
      total += e;
    }
    for (int c = 0; c < n; c++) d[c] = known ? d[c] / total - (c == label ? 1.0f : 0.0f) : NAN;
    RESULT(log(total) - picked, top == label)
  }
}

LOSS(mean_squared_error, float)
{
  const float slope = 2.0f / n;
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    int top = 0, top_target = 0;
    float total = 0;
    for (int c = 0; c < n; c++) {
      const float difference = x[c] - t[c];
      total += difference * difference;
      if (x[c] > x[top]) top = c;
      if (t[c] > t[top_target]) top_target = c;
      d[c] = slope * difference;
    }
    RESULT(total / n, top == top_target)
  }
}

/* Add up the losses and the hits of rows[2,count], from first to last; there is one item. */
__kernel void sum_rows(
  const __global float *rows, ulong rows_at, __global float *stats, ulong stats_at, int count,
  ulong items, int share)
{
  EACH_ITEM(item)
  {
    float loss = 0, hit = 0;
    for (int row = 0; row < count; row++) {
      loss += rows[rows_at + row];
      hit += rows[rows_at + count + row];
    }
    stats[stats_at] = loss;
    stats[stats_at + 1] = hit;
  }
}
