/* The arguments of every product: six arrays, and all numbers as one vector, for what a launch costs
 * grows with the number of its arguments. The order of the numbers is `kernels.gemm`'s. `bias` is read,
 * or is where the sums of b's columns go.
 */

#define ARGUMENTS                                                                                  \
  const __global float *a, const __global float *b, __global float *out,                           \
    __global float *bias, const __global float *y, const __global float *residual,                 \
    long16 numbers

/* Where the arrays begin, then the shape and the epilogue. */
#define UNPACK_ARGUMENTS                                                                           \
  a += numbers.s0;                                                                                 \
  b += numbers.s1;                                                                                 \
  out += numbers.s2;                                                                               \
  const int has_bias = numbers.s5 & 1, has_residual = numbers.s5 >> 1 & 1;                         \
  const int summed = numbers.s5 >> 2 & 1;                                                          \
  const int activation = numbers.s6, derivative = numbers.s7;                                      \
  const int m = numbers.s8, n = numbers.s9, k = numbers.sa;                                        \
  if (has_bias || summed) bias += numbers.s3;                                                      \
  const float scale = as_float((int)numbers.sf);                                                   \
  if (has_residual) residual += numbers.se;                                                        \
  if (derivative) y += numbers.s4;
