/* Softmax and its logarithm; an item is a row [n]. The order of a sum depends on n alone. */

#define ROWS_OF(NAME)                                                                              \
  __kernel void NAME(const __global float *x, ulong x_at, __global float *out, ulong out_at,       \
                     int n, ulong items, int share)
#define ROWS_BACK(NAME)                                                                            \
  __kernel void NAME(                                                                              \
    const __global float *delta, ulong delta_at, const __global float *y, ulong y_at,              \
    __global float *out, ulong out_at, int n, ulong items, int share)

/* The largest of a row; what NaN does to it does not matter, since it spoils the sum. */
static inline float highest_of(const __global float *x, int n)
{
  float highest = x[0];
  int c = 0;
  if (LANES == 16 && n >= 16) {
    float16 most = LOAD16(x);
    EACH_16(c, n)
    {
      const float16 v = LOAD16(x + c);
      most = v > most ? v : most;
    }
    float lanes[16];
    *(float16 *)lanes = most;
    for (int lane = 0; lane < 16; lane++) highest = lanes[lane] > highest ? lanes[lane] : highest;
  }
  for (; c < n; c++) highest = x[c] > highest ? x[c] : highest;
  return highest;
}

ROWS_OF(softmax)
{
  EACH_ITEM(row)
  {
    const __global float *from = x + x_at + row * n;
    __global float *to = out + out_at + row * n;
    const float highest = highest_of(from, n);
    float16 sums = 0;
    float total = 0;
    int c = 0;
    EACH_16(c, n)
    {
      const float16 e = EXP_16(LOAD16(from + c) - highest);
      STORE16(to + c, e);
      sums += e;
    }
    if (LANES == 16 && c < n) store_some(to + c, EXP_16(load_some(from + c, n - c) - highest), n - c);
    for (; c < n; c++) {
      if (LANES != 16) to[c] = exp(from[c] - highest);
      total += to[c];
    }
    total += sum_16(sums);
    c = 0;
    EACH_16(c, n) STORE16(to + c, LOAD16(to + c) / total);
    for (; c < n; c++) to[c] /= total;
  }
}

ROWS_BACK(softmax_back)
{
  EACH_ITEM(row)
  {
    const __global float *d = delta + delta_at + row * n;
    const __global float *p = y + y_at + row * n;
    __global float *to = out + out_at + row * n;
    float16 sums = 0;
    float total = 0;
    int c = 0;
    EACH_16(c, n) sums += LOAD16(d + c) * LOAD16(p + c);
    for (; c < n; c++) total += d[c] * p[c];
    total += sum_16(sums);
    c = 0;
    EACH_16(c, n) STORE16(to + c, LOAD16(p + c) * (LOAD16(d + c) - total));
    for (; c < n; c++) to[c] = p[c] * (d[c] - total);
  }
}

ROWS_OF(log_softmax)
{
  EACH_ITEM(row)
  {
    const __global float *from = x + x_at + row * n;
    __global float *to = out + out_at + row * n;
    const float highest = highest_of(from, n);
    float16 sums = 0;
    float total = 0;
    int c = 0;
    EACH_16(c, n) sums += EXP_16(LOAD16(from + c) - highest);
    for (; c < n; c++) total += exp(from[c] - highest);
    total = log(total + sum_16(sums));
    c = 0;
    EACH_16(c, n) STORE16(to + c, LOAD16(from + c) - highest - total);
    for (; c < n; c++) to[c] = from[c] - highest - total;
  }
}

ROWS_BACK(log_softmax_back)
{
  EACH_ITEM(row)
  {
    const __global float *d = delta + delta_at + row * n;
    const __global float *p = y + y_at + row * n;
    __global float *to = out + out_at + row * n;
    float16 sums = 0;
    float total = 0;
    int c = 0;
    EACH_16(c, n) sums += LOAD16(d + c);
    for (; c < n; c++) total += d[c];
    total += sum_16(sums);
    c = 0;
    EACH_16(c, n) STORE16(to + c, LOAD16(d + c) - EXP_16(LOAD16(p + c)) * total);
    for (; c < n; c++) to[c] = d[c] - exp(p[c]) * total;
  }
}
