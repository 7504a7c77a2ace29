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

/* The first column of the largest number. */
static inline int largest(const __global float *x, int n)
{
  int top = 0;
  for (int c = 1; c < n; c++)
    if (x[c] > x[top]) top = c;
  return top;
}

static inline bool has_nan(const __global float *x, int n)
{
  bool found = false;
  for (int c = 0; c < n; c++) found |= x[c] != x[c];
  return found;
}

/* Softmax shifted by the row's maximum; a label outside 0..n-1 gives NaN. */
LOSS(softmax_cross_entropy, int)
{
  EACH_ITEM(row)
  {
    ROW
    const int label = target[target_at + row];
    const bool known = label >= 0 && label < n;
    const int top = largest(x, n);
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

/* The same of a distribution t[n]; its sum need not be 1. */
LOSS(softmax_cross_entropy_dense, float)
{
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    const int top = largest(x, n);
    const float highest = x[top];
    float total = 0, weight = 0, product = 0;
    for (int c = 0; c < n; c++) {
      const float e = exp(x[c] - highest);
      d[c] = e;
      total += e;
      weight += t[c];
      product += t[c] * (x[c] - highest);
    }
    const float factor = weight / total;
    for (int c = 0; c < n; c++) d[c] = d[c] * factor - t[c];
    RESULT(weight * log(total) - product, top == largest(t, n))
  }
}

/* Of logits; with e = exp(-|x|) nothing overflows. */
LOSS(binary_cross_entropy, float)
{
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    const float slope = 1.0f / n;
    float total = 0;
    bool hit = true;
    for (int c = 0; c < n; c += 16) {
      const int count = min(16, n - c);
      const float16 logits = load_some(x + c, count), wanted = load_some(t + c, count);
      const float16 e = EXP_16(logits < 0 ? logits : -logits);
      const float16 losses = (logits < 0 ? 0 : logits) - logits * wanted + LOG1P_16(e);
      store_some(d + c, ((logits < 0 ? e : 1) / (1 + e) - wanted) * slope, count);
      for (int lane = 0; lane < count; lane++) {
        total += ((float *)&losses)[lane];
        hit = hit && (x[c + lane] > 0) == (t[c + lane] > 0.5f);
      }
    }
    RESULT(total / n, hit)
  }
}

LOSS(mean_absolute_error, float)
{
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    const float slope = 1.0f / n;
    float total = 0;
    for (int c = 0; c < n; c++) {
      const float difference = x[c] - t[c];
      total += fabs(difference);
      d[c] = difference > 0 ? slope : difference < 0 ? -slope : difference;
    }
    RESULT(total / n, largest(x, n) == largest(t, n))
  }
}

/* Of labels, by the first of the largest wrong scores; a row of one class has none. */
LOSS(hinge, int)
{
  EACH_ITEM(row)
  {
    ROW
    const int label = target[target_at + row];
    const bool known = label >= 0 && label < n && !has_nan(x, n);
    int wrong = label == 0 ? 1 : 0;
    for (int c = wrong + 1; c < n; c++)
      if (c != label && x[c] > x[wrong]) wrong = c;
    const float margin = !known ? NAN : wrong < n ? 1 + x[wrong] - x[label] : 0;
    const float slope = !known ? NAN : margin > 0 ? 1 : 0;
    for (int c = 0; c < n; c++) d[c] = c == label ? -slope : c == wrong || !known ? slope : 0;
    RESULT(margin < 0 ? 0 : margin, largest(x, n) == label)
  }
}

/* Of targets -1 and 1. */
LOSS(binary_hinge, float)
{
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    const float slope = 1.0f / n;
    float total = 0;
    bool hit = true;
    for (int c = 0; c < n; c++) {
      const float margin = 1 - t[c] * x[c];
      total += margin < 0 ? 0 : margin;
      d[c] = margin > 0 ? -t[c] * slope : margin < 0 ? 0 : margin;
      hit = hit && (x[c] > 0) == (t[c] > 0);
    }
    RESULT(total / n, hit)
  }
}

/* Of log-probabilities. */
LOSS(negative_log_likelihood, int)
{
  EACH_ITEM(row)
  {
    ROW
    const int label = target[target_at + row];
    const bool known = label >= 0 && label < n && !has_nan(x, n);
    for (int c = 0; c < n; c++) d[c] = !known ? NAN : c == label ? -1.0f : 0.0f;
    RESULT(known ? -x[label] : NAN, largest(x, n) == label)
  }
}

/* Of log-probabilities by probabilities; 0 log 0 is 0. */
LOSS(kullback_leibler, float)
{
  EACH_ITEM(row)
  {
    ROW
    const __global float *t = target + target_at + row * n;
    float total = has_nan(x, n) ? NAN : 0;
    for (int c = 0; c < n; c++) {
      total += t[c] == 0 ? 0 : t[c] * (log(t[c]) - x[c]);
      d[c] = -t[c];
    }
    RESULT(total, largest(x, n) == largest(t, n))
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
