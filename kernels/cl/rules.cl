/* One update rule, fused into one pass; RULE comes from the build options.
 *
 * Contraction is off, so that every operation rounds as IEEE 754 says and the numpy twin, which does
 * the same operations in the same order, is equal bit for bit.
 */

#pragma OPENCL FP_CONTRACT OFF

#define DEFINE_RULE(SUFFIX, T)                                                                     \
  static inline T rule_##SUFFIX(                                                                   \
    T weight, T gradient, T *first, T *second, float scale, float rate, float keep, float one,     \
    float two, float rest_one, float rest_two, float correction, float epsilon, float decay)       \
  {                                                                                                \
    T g = gradient * scale;                                                                        \
    if (RULE == RULE_ADAMW)                                                                        \
      weight = weight * keep;                                                                      \
    else if (decay != 0)                                                                           \
      g = g + weight * decay;                                                                      \
    if (RULE == RULE_SGD) return weight - g * rate;                                                \
    if (RULE == RULE_MOMENTUM || RULE == RULE_NESTEROV) {                                          \
      *first = *first * one + g;                                                                   \
      if (RULE == RULE_MOMENTUM) return weight - *first * rate;                                    \
      return weight - (*first * one + g) * rate;                                                   \
    }                                                                                              \
    if (RULE == RULE_ADAGRAD || RULE == RULE_RMSPROP) {                                            \
      *first = RULE == RULE_ADAGRAD ? *first + g * g : *first * one + (g * g) * rest_one;          \
      return weight - (g * rate) / (SQRT_##SUFFIX(*first) + epsilon);                              \
    }                                                                                              \
    *first = *first * one + g * rest_one;                                                          \
    *second = *second * two + (g * g) * rest_two;                                                  \
    return weight - (*first * rate) / (SQRT_##SUFFIX(*second) * correction + epsilon);             \
  }

DEFINE_RULE(1, float)
DEFINE_RULE(16, float16)

/* One work-item takes `share` elements. State that the rule lacks is never touched. */
__kernel
#if LANES == 16
__attribute__((reqd_work_group_size(1, 1, 1)))
#endif
void apply_rule(
  const __global float *weights, __global float *out, const __global float *gradient,
  __global float *state_one, __global float *state_two, ulong8 numbers, float16 constants)
{
  /* The orders are those of `kernels.rule_kernel` and `kernels.rule_twin.Coefficients`. */
  weights += numbers.s0;
  out += numbers.s1;
  gradient += numbers.s2;
  state_one += numbers.s3;
  state_two += numbers.s4;
  const ulong size = numbers.s5;
  const ulong share = numbers.s6;
  const float scale = constants.s0, rate = constants.s1, keep = constants.s2;
  const float one = constants.s3, two = constants.s4;
  const float rest_one = constants.s5, rest_two = constants.s6;
  const float correction = constants.s7, epsilon = constants.s8, decay = constants.s9;
  const ulong start = get_global_id(0) * share;
  const ulong end = min(start + share, size);
  ulong x = start;
  for (; x + 16 <= end; x += 16) {
    float16 first = 0, second = 0;
    if (STATES > 0) first = LOAD16(state_one + x);
    if (STATES > 1) second = LOAD16(state_two + x);
    const float16 result = rule_16(
      LOAD16(weights + x), LOAD16(gradient + x), &first, &second, scale, rate, keep, one, two,
      rest_one, rest_two, correction, epsilon, decay);
    STORE16(out + x, result);
    if (STATES > 0) STORE16(state_one + x, first);
    if (STATES > 1) STORE16(state_two + x, second);
  }
  for (; x < end; x++) {
    float first = 0, second = 0;
    if (STATES > 0) first = state_one[x];
    if (STATES > 1) second = state_two[x];
    out[x] = rule_1(
      weights[x], gradient[x], &first, &second, scale, rate, keep, one, two, rest_one, rest_two,
      correction, epsilon, decay);
    if (STATES > 0) state_one[x] = first;
    if (STATES > 1) state_two[x] = second;
  }
}
