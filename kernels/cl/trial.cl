/* A small computation that shows whether a device works: its compiler, its linker, vectors, built-in
 * functions, local memory and barriers.
 *
 * y[i] = tanh(x[i]) * 2 + exp(x[i ^ 1]), where the neighbour's value comes through local memory. The last
 * 16 values of y are computed as one vector.
 */

#define GROUP 8

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void trial(const __global float *x, __global float *y, int size)
{
  __local float near[GROUP];
  const int item = get_local_id(0), at = get_global_id(0);
  near[item] = x[at];
  barrier(CLK_LOCAL_MEM_FENCE);
  y[at] = TANH_1(x[at]) * 2 + EXP_1(near[item ^ 1]);
  if (at != 0) return;
  const float16 vector = LOAD16(x + size);
  float16 swapped;
  swapped.even = vector.odd;
  swapped.odd = vector.even;
  STORE16(y + size, TANH_16(vector) * 2 + EXP_16(swapped));
}
