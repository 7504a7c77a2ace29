/* Rows of a table by their numbers, and the sums of the gradients of equal numbers.
 *
 * The host sorts the numbers, so every sum's order is that of the places in the input: no atomics.
 */

/* An item is a row [n] of out; a number outside 0..rows-1 gives NaN. */
__kernel void embedding(
  const __global float *table, ulong table_at, const __global int *ids, ulong ids_at,
  __global float *out, ulong out_at, int rows, int n, ulong items, int share)
{
  EACH_ITEM(item)
  {
    const int id = ids[ids_at + item];
    const bool known = id >= 0 && id < rows;
    const __global float *from = table + table_at + (ulong)(known ? id : 0) * n;
    __global float *to = out + out_at + item * n;
    int x = 0;
    EACH_16(x, n) STORE16(to + x, known ? LOAD16(from + x) : (float16)NAN);
    for (; x < n; x++) to[x] = known ? from[x] : NAN;
  }
}

/* An item is a row [n] of out: the sum of the rows of delta at order[starts[item]..starts[item + 1]). */
__kernel void embedding_back(
  const __global float *delta, ulong delta_at, const __global int *order, ulong order_at,
  const __global int *starts, ulong starts_at, __global float *out, ulong out_at, int n,
  ulong items, int share)
{
  delta += delta_at;
  order += order_at;
  starts += starts_at;
  EACH_ITEM(item)
  {
    __global float *to = out + out_at + item * n;
    const int start = starts[item], end = starts[item + 1];
    int x = 0;
    EACH_16(x, n)
    {
      float16 sum = 0;
      for (int i = start; i < end; i++) sum += LOAD16(delta + (ulong)order[i] * n + x);
      STORE16(to + x, sum);
    }
    for (; x < n; x++) {
      float sum = 0;
      for (int i = start; i < end; i++) sum += delta[(ulong)order[i] * n + x];
      to[x] = sum;
    }
  }
}
