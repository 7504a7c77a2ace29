/* Losses with their gradients; each row's loss and hit go to workspaces that sum_rows adds up. */

/* One work-item takes `share` rows of logits[rows,n], shifted by the row's maximum. */
__kernel void softmax_cross_entropy(
  const __global float *logits, ulong logits_at, const __global int *labels, ulong labels_at,
  __global float *delta, ulong delta_at, __global float *losses, __global float *hits,
  int rows, int n, int share)
{
  const int first = get_global_id(0) * share;
  for (int row = first; row < min(first + share, rows); row++) {
    const __global float *x = logits + logits_at + (size_t)row * n;
    __global float *d = delta + delta_at + (size_t)row * n;
    const int label = labels[labels_at + row];
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
    losses[row] = log(total) - picked;
    hits[row] = top == label ? 1.0f : 0.0f;
  }
}

/* One work-item takes `share` rows; a row's loss is the mean of its squared differences. */
__kernel void mean_squared_error(
  const __global float *output, ulong output_at, const __global float *target, ulong target_at,
  __global float *delta, ulong delta_at, __global float *losses, __global float *hits,
  int rows, int n, int share)
{
  const int first = get_global_id(0) * share;
  const float slope = 2.0f / n;
  for (int row = first; row < min(first + share, rows); row++) {
    const __global float *o = output + output_at + (size_t)row * n;
    const __global float *t = target + target_at + (size_t)row * n;
    __global float *d = delta + delta_at + (size_t)row * n;
    int top_output = 0, top_target = 0;
    float total = 0;
    for (int c = 0; c < n; c++) {
      const float difference = o[c] - t[c];
      total += difference * difference;
      if (o[c] > o[top_output]) top_output = c;
      if (t[c] > t[top_target]) top_target = c;
      d[c] = slope * difference;
    }
    losses[row] = total / n;
    hits[row] = top_output == top_target ? 1.0f : 0.0f;
  }
}
