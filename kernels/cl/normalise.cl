/* Normalisation of rows (layer) and of channels (batch).
 *
 * A matrix is summed by columns, from the first row to the last. Of images, sums go plane by plane to
 * sums[B,C], whose columns are added so too: their order depends on shapes alone. A plane has `size`
 * elements; where it has one, the array is a matrix, and what follows in memory is the next channel.
 */

#define STORE1(p, v) *(p) = v

/* The sum of an expression over 0 <= c < n, by 16 and then one by one. */
#define SUM(n, EXPRESSION)                                                                         \
  float16 sums_16 = 0;                                                                             \
  float sum = 0;                                                                                   \
  int c = 0;                                                                                       \
  EACH_16(c, n) sums_16 += EXPRESSION(LOAD16);                                                     \
  for (; c < n; c++) sum += EXPRESSION(*);                                                         \
  sum += sum_16(sums_16);

#define ITSELF(LOAD) LOAD(x + c)
static inline float sum_of(const __global float *x, int n)
{
  SUM(n, ITSELF)
  return sum;
}

#define SQUARE(LOAD) (LOAD(x + c) - mean) * (LOAD(x + c) - mean)
static inline float squares_of(const __global float *x, float mean, int n)
{
  SUM(n, SQUARE)
  return sum;
}

/* Without its division by the deviation. */
#define PRODUCT(LOAD) LOAD(d + c) * (LOAD(x + c) - mean)
static inline float products_of(
  const __global float *d, const __global float *x, float mean, int n)
{
  SUM(n, PRODUCT)
  return sum;
}

/* An item is a row [n]; its mean and 1 / deviation go to moments[2,items]. */
__kernel void layer_norm(
  const __global float *x, ulong x_at, const __global float *gain, ulong gain_at,
  const __global float *bias, ulong bias_at, __global float *out, ulong out_at,
  __global float *moments, ulong moments_at, int n, float epsilon, ulong items, int share)
{
  gain += gain_at;
  bias += bias_at;
  EACH_ITEM(row)
  {
    const __global float *from = x + x_at + row * n;
    __global float *to = out + out_at + row * n;
    const float mean = sum_of(from, n) / n;
    const float inverse = 1 / sqrt(squares_of(from, mean, n) / n + epsilon);
    int c = 0;
    EACH_16(c, n)
    STORE16(to + c, (LOAD16(from + c) - mean) * inverse * LOAD16(gain + c) + LOAD16(bias + c));
    for (; c < n; c++) to[c] = (from[c] - mean) * inverse * gain[c] + bias[c];
    moments[moments_at + row] = mean;
    moments[moments_at + items + row] = inverse;
  }
}

/* The gradient by a row; it is written to `out`, where delta may lie. */
__kernel void layer_norm_back(
  const __global float *delta, ulong delta_at, const __global float *x, ulong x_at,
  const __global float *gain, ulong gain_at, const __global float *moments, ulong moments_at,
  __global float *out, ulong out_at, int n, ulong items, int share)
{
  const __global float *g = gain + gain_at;
  EACH_ITEM(row)
  {
    const __global float *d = delta + delta_at + row * n;
    const __global float *from = x + x_at + row * n;
    __global float *to = out + out_at + row * n;
    const float mean = moments[moments_at + row], inverse = moments[moments_at + items + row];
    float16 first_16 = 0, second_16 = 0;
    float first = 0, second = 0;
    int c = 0;
    EACH_16(c, n)
    {
      const float16 given = LOAD16(d + c) * LOAD16(g + c);
      first_16 += given;
      second_16 += given * (LOAD16(from + c) - mean);
    }
    for (; c < n; c++) {
      first += d[c] * g[c];
      second += d[c] * g[c] * (from[c] - mean);
    }
    first = (first + sum_16(first_16)) / n;
    second = (second + sum_16(second_16)) / n * inverse * inverse;
    c = 0;
    EACH_16(c, n)
    {
      const float16 given = LOAD16(d + c) * LOAD16(g + c);
      STORE16(to + c, inverse * (given - first - (LOAD16(from + c) - mean) * second));
    }
    for (; c < n; c++) to[c] = inverse * (d[c] * g[c] - first - (from[c] - mean) * second);
  }
}

/* The gradients by gain and bias of x[rows,items]; an item is a column. The moments are a row's, or a
 * column's. */
#define COLUMN_PRODUCTS(T, LOAD, STORE, MEAN, INVERSE)                                             \
  T products = 0, sums = 0;                                                                        \
  for (int row = 0; row < rows; row++) {                                                           \
    const T given = LOAD(delta + row * items + column);                                            \
    products += given * ((LOAD(x + row * items + column) - MEAN(LOAD)) * INVERSE(LOAD));           \
    sums += given;                                                                                 \
  }                                                                                                \
  STORE(by_gain + gain_at + column, products);                                                     \
  STORE(by_bias + bias_at + column, sums);

#define PRODUCTS_KERNEL(NAME, MEAN, INVERSE)                                                       \
  __kernel void NAME(                                                                              \
    const __global float *delta, ulong delta_at, const __global float *x, ulong x_at,              \
    const __global float *moments, ulong moments_at, __global float *by_gain, ulong gain_at,       \
    __global float *by_bias, ulong bias_at, int rows, ulong items, int share)                      \
  {                                                                                                \
    ELEMENTS                                                                                       \
    ulong column = first;                                                                          \
    delta += delta_at;                                                                             \
    x += x_at;                                                                                     \
    moments += moments_at;                                                                         \
    EACH_16(column, end) { COLUMN_PRODUCTS(float16, LOAD16, STORE16, MEAN, INVERSE) }              \
    for (; column < end; column++) { COLUMN_PRODUCTS(float, *, STORE1, MEAN, INVERSE) }            \
  }

#define ROW_MEAN(LOAD) moments[row]
#define ROW_INVERSE(LOAD) moments[rows + row]
PRODUCTS_KERNEL(layer_norm_products, ROW_MEAN, ROW_INVERSE)

#define COLUMN_MEAN(LOAD) LOAD(moments + column)
#define COLUMN_INVERSE(LOAD) LOAD(moments + items + column)
PRODUCTS_KERNEL(column_products, COLUMN_MEAN, COLUMN_INVERSE)

/* 1 / deviation of a channel, and its running moments, from the sum of squared differences. */
#define KEEP_DEVIATION(T, LOAD, STORE, ROOT, squares, mean, c)                                     \
  const T old_mean = LOAD(running + c), old_variance = LOAD(running + items + c);                  \
  STORE(moments + items + c, 1 / ROOT(squares / count + epsilon));                                 \
  STORE(running + c, old_mean + (mean - old_mean) * momentum);                                     \
  const T variance = squares / max(count - 1, 1.0f);                                               \
  STORE(running + items + c, old_variance + (variance - old_variance) * momentum);

/* A matrix's moments by columns; an item is a column of x[rows,items]. */
__kernel void column_moments(
  const __global float *x, ulong x_at, __global float *moments, ulong moments_at,
  __global float *running, ulong running_at, int rows, float momentum, float epsilon, ulong items,
  int share)
{
  ELEMENTS
  ulong column = first;
  const float count = rows;
  x += x_at;
  moments += moments_at;
  running += running_at;
#define COLUMN_MOMENTS(T, LOAD, STORE, ROOT)                                                       \
  T sum = 0, squares = 0;                                                                          \
  for (int row = 0; row < rows; row++) sum += LOAD(x + row * items + column);                      \
  const T mean = sum / count;                                                                      \
  STORE(moments + column, mean);                                                                   \
  for (int row = 0; row < rows; row++) {                                                           \
    const T difference = LOAD(x + row * items + column) - mean;                                    \
    squares += difference * difference;                                                            \
  }                                                                                                \
  KEEP_DEVIATION(T, LOAD, STORE, ROOT, squares, mean, column)
  EACH_16(column, end) { COLUMN_MOMENTS(float16, LOAD16, STORE16, SQRT_16) }
  for (; column < end; column++) { COLUMN_MOMENTS(float, *, STORE1, sqrt) }
}

/* An item is a plane. */
__kernel void plane_sums(
  const __global float *x, ulong x_at, __global float *sums, ulong sums_at, int size, ulong items,
  int share)
{
  EACH_ITEM(plane) sums[sums_at + plane] = sum_of(x + x_at + plane * size, size);
}

/* The sum of a column of sums[rows,items]. */
#define COLUMN_SUM(T, LOAD)                                                                        \
  T sum = 0;                                                                                       \
  for (int row = 0; row < rows; row++) sum += LOAD(sums + row * items + c);

/* The mean of each channel, of so many elements; an item is a channel. */
__kernel void channel_means(
  const __global float *sums, ulong sums_at, __global float *moments, ulong moments_at, int rows,
  float count, ulong items, int share)
{
  ELEMENTS
  ulong c = first;
  sums += sums_at;
  moments += moments_at;
#define MEAN(T, LOAD, STORE)                                                                       \
  COLUMN_SUM(T, LOAD)                                                                              \
  STORE(moments + c, sum / count);
  EACH_16(c, end) { MEAN(float16, LOAD16, STORE16) }
  for (; c < end; c++) { MEAN(float, *, STORE1) }
}

/* Go over the elements of a work-item by runs of one channel, or of many where planes are of one
 * element; STATEMENT has the element's place x and its channel c. */
#define EACH_ELEMENT(first, end, size, STATEMENT)                                                  \
  for (ulong start = first, run; start < end; start += run) {                                      \
    const ulong plane = start / size, channel = plane % channels;                                  \
    if (size == 1) {                                                                               \
      run = min(end - start, channels - channel);                                                  \
      for (ulong i = 0; i < run; i++) {                                                            \
        const ulong x = start + i, c = channel + i;                                                \
        STATEMENT                                                                                  \
      }                                                                                            \
    } else {                                                                                       \
      const ulong c = channel;                                                                     \
      run = min(end - start, (plane + 1) * size - start);                                          \
      for (ulong x = start; x < start + run; x++) { STATEMENT }                                    \
    }                                                                                              \
  }

/* The sum of squared differences from the channel's mean; an item is a plane. */
__kernel void plane_squares(
  const __global float *a, ulong a_at, const __global float *moments, ulong moments_at,
  __global float *sums, ulong sums_at, ulong channels, ulong size, ulong items, int share)
{
  a += a_at;
  moments += moments_at;
  sums += sums_at;
  EACH_ITEM(plane) sums[plane] = squares_of(a + plane * size, moments[plane % channels], size);
}

/* 1 / deviation of each channel, and the running moments; an item is a channel. */
__kernel void channel_deviations(
  const __global float *sums, ulong sums_at, __global float *moments, ulong moments_at,
  __global float *running, ulong running_at, int rows, float count, float momentum, float epsilon,
  ulong items, int share)
{
  ELEMENTS
  ulong c = first;
  sums += sums_at;
  moments += moments_at;
  running += running_at;
#define DEVIATION(T, LOAD, STORE, ROOT)                                                            \
  COLUMN_SUM(T, LOAD)                                                                              \
  KEEP_DEVIATION(T, LOAD, STORE, ROOT, sum, LOAD(moments + c), c)
  EACH_16(c, end) { DEVIATION(float16, LOAD16, STORE16, SQRT_16) }
  for (; c < end; c++) { DEVIATION(float, *, STORE1, sqrt) }
}

/* Mean and 1 / deviation from the running moments; an item is a channel. */
__kernel void running_moments(
  const __global float *running, ulong running_at, __global float *moments, ulong moments_at,
  float epsilon, ulong items, int share)
{
  EACH_ITEM(c)
  {
    moments[moments_at + c] = running[running_at + c];
    moments[moments_at + items + c] = 1 / sqrt(running[running_at + items + c] + epsilon);
  }
}

/* An item is an element. */
__kernel void batch_normalise(
  const __global float *a, ulong a_at, const __global float *gain, ulong gain_at,
  const __global float *bias, ulong bias_at, const __global float *moments, ulong moments_at,
  __global float *out, ulong out_at, ulong channels, ulong size, ulong items, int share)
{
  ELEMENTS
  a += a_at;
  out += out_at;
  gain += gain_at;
  bias += bias_at;
  moments += moments_at;
  EACH_ELEMENT(first, end, size, {
    out[x] = (a[x] - moments[c]) * (moments[channels + c] * gain[c]) + bias[c];
  })
}

/* The sums of delta and of delta times the normalised input, to sums[2,items]; an item is a plane. */
__kernel void plane_products(
  const __global float *delta, ulong delta_at, const __global float *a, ulong a_at,
  const __global float *moments, ulong moments_at, __global float *sums, ulong sums_at,
  ulong channels, ulong size, ulong items, int share)
{
  delta += delta_at;
  a += a_at;
  moments += moments_at;
  sums += sums_at;
  EACH_ITEM(plane)
  {
    const ulong c = plane % channels;
    const __global float *d = delta + plane * size;
    sums[plane] = sum_of(d, size);
    sums[items + plane] =
      products_of(d, a + plane * size, moments[c], size) * moments[channels + c];
  }
}

/* The gradient by the input; it is written to `out`, where delta may lie. An item is an element. */
__kernel void batch_normalise_back(
  const __global float *delta, ulong delta_at, const __global float *a, ulong a_at,
  const __global float *gain, ulong gain_at, const __global float *moments, ulong moments_at,
  const __global float *by_gain, ulong by_gain_at, const __global float *by_bias,
  ulong by_bias_at, __global float *out, ulong out_at, ulong channels, ulong size, float count,
  ulong items, int share)
{
  ELEMENTS
  delta += delta_at;
  a += a_at;
  gain += gain_at;
  moments += moments_at;
  by_gain += by_gain_at;
  by_bias += by_bias_at;
  out += out_at;
  EACH_ELEMENT(first, end, size, {
    const float inverse = moments[channels + c];
    const float drift = by_bias[c] / count;
    const float slope = by_gain[c] / count * inverse;
    out[x] = gain[c] * inverse * (delta[x] - drift - (a[x] - moments[c]) * slope);
  })
}
