/* Activations by themselves, where no product fuses them; an item is an element. */

/* 1 / sqrt(2 pi) */
#define DENSITY 0.398942280f

/* The normal distribution's mass below x, 0.5 erfc(-x / sqrt(2)), within 1.2e-7 of itself: Press et
 * al., "Numerical Recipes", section 6.2 (erfcc). Vectors of the built-in erf are not to be had. */
#define DEFINE_GELU(SUFFIX, T)                                                                     \
  static inline T mass_##SUFFIX(T x)                                                               \
  {                                                                                                \
    const T z = (x < 0 ? -x : x) * M_SQRT1_2_F;                                                    \
    const T t = 1 / (1 + 0.5f * z);                                                                \
    const T high = t * (-0.18628806f + t * (0.27886807f + t * (-1.13520398f + t * (1.48851587f +   \
                   t * (-0.82215223f + t * 0.17087277f)))));                                       \
    const T power = t * (1.00002368f + t * (0.37409196f + t * (0.09678418f + high)));              \
    const T tail = 0.5f * t * EXP_##SUFFIX(power - 1.26551223f - z * z);                           \
    return x < 0 ? tail : 1 - tail;                                                                \
  }                                                                                                \
  static inline T gelu_##SUFFIX(T x) { return x * mass_##SUFFIX(x); }                              \
  static inline T derive_gelu_##SUFFIX(T delta, T x)                                               \
  {                                                                                                \
    return delta * (mass_##SUFFIX(x) + x * (DENSITY * EXP_##SUFFIX(-0.5f * x * x)));               \
  }

DEFINE_GELU(1, float)
#if LANES == 16
DEFINE_GELU(16, float16)
#define EACH_ELEMENT(EXPRESSION)                                                                   \
  EACH_16(x, end) STORE16(out + x, EXPRESSION(16, LOAD16));                                        \
  for (; x < end; x++) out[x] = EXPRESSION(1, *);
#else
#define EACH_ELEMENT(EXPRESSION)                                                                   \
  for (; x < end; x++) out[x] = EXPRESSION(1, *);
#endif

#define UNARY(NAME, ...)                                                                           \
  __kernel void NAME(const __global float *a, ulong a_at, __global float *out, ulong out_at,       \
                     __VA_ARGS__ ulong items, int share)
#define BINARY(NAME, ...)                                                                          \
  __kernel void NAME(const __global float *a, ulong a_at, const __global float *b, ulong b_at,     \
                     __global float *out, ulong out_at, __VA_ARGS__ ulong items, int share)

UNARY(activate, int activation, )
{
  ELEMENTS
  ulong x = first;
  a += a_at;
  out += out_at;
#define ACTIVATED(SUFFIX, LOAD) activate_##SUFFIX(LOAD(a + x), activation)
  EACH_ELEMENT(ACTIVATED)
}

/* a is delta, b the activation's output. */
BINARY(activate_back, int activation, )
{
  ELEMENTS
  ulong x = first;
  a += a_at;
  b += b_at;
  out += out_at;
#define DERIVED(SUFFIX, LOAD) derive_##SUFFIX(LOAD(a + x), LOAD(b + x), activation)
  EACH_ELEMENT(DERIVED)
}

UNARY(gelu, )
{
  ELEMENTS
  ulong x = first;
  a += a_at;
  out += out_at;
#define GELU(SUFFIX, LOAD) gelu_##SUFFIX(LOAD(a + x))
  EACH_ELEMENT(GELU)
}

/* a is delta, b the input. */
BINARY(gelu_back, )
{
  ELEMENTS
  ulong x = first;
  a += a_at;
  b += b_at;
  out += out_at;
#define DERIVED_GELU(SUFFIX, LOAD) derive_gelu_##SUFFIX(LOAD(a + x), LOAD(b + x))
  EACH_ELEMENT(DERIVED_GELU)
}
