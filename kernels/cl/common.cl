/* Shared by every program. LANES (16 on CPU devices, 1 elsewhere) comes from the build options.
 *
 * Vectors are dereferenced through pointers of 4-byte alignment instead of vload16 and vstore16,
 * and products are written a * b + c instead of fma(): on PoCL 3.0 (LLVM 14) those built-ins are
 * calls that spill registers, while these become single AVX-512 instructions.
 */

typedef float16 loose16 __attribute__((aligned(4)));
typedef float8 loose8 __attribute__((aligned(4)));
typedef float4 loose4 __attribute__((aligned(4)));
typedef int16 loose_int16 __attribute__((aligned(4)));

#define LOAD16(p) (*(const __global loose16 *)(p))
#define LOAD8(p) (*(const __global loose8 *)(p))
#define STORE16(p, v) (*(__global loose16 *)(p) = (v))
#define STORE8(p, v) (*(__global loose8 *)(p) = (v))

/* An operation's work-item takes `share` of its items (kernels/operation.py). */
#define EACH_ITEM(item)                                                                            \
  for (ulong item = get_global_id(0) * (ulong)share, item##_end = min(item + share, items);        \
       item < item##_end; item++)

/* The same where items are elements: `first` is a multiple of LANES, so that few are left over. */
#define ELEMENTS                                                                                   \
  const ulong whole = ((ulong)share + LANES - 1) / LANES * LANES;                                  \
  const ulong first = get_global_id(0) * whole, end = min(first + whole, items);

/* Go from x to end by 16, where the device has vectors; what is left over goes one by one. */
#define EACH_16(x, end) for (; LANES == 16 && x + 16 <= end; x += 16)

/* A vector of which some lanes count, 1 to 16; the others are 0, and are not stored. Built-ins are
 * many times quicker on vectors than on numbers one by one, so this pays for a few. */
static inline float16 load_some(const __global float *p, int count)
{
  if (count >= 16) return LOAD16(p);
  float16 found = 0;
  for (int lane = 0; lane < count; lane++) ((float *)&found)[lane] = p[lane];
  return found;
}

static inline void store_some(__global float *p, float16 v, int count)
{
  if (count >= 16) {
    STORE16(p, v);
    return;
  }
  for (int lane = 0; lane < count; lane++) p[lane] = ((float *)&v)[lane];
}

/* Add up a vector by halves. */
static inline float sum_16(float16 v)
{
  const float8 eight = v.lo + v.hi;
  const float4 four = eight.lo + eight.hi;
  const float2 two = four.lo + four.hi;
  return two.x + two.y;
}

/* PoCL's library of built-in functions is one for the CPU, whatever the compiler is told to compile for.
 * A vector that is wider than the compiler's registers is passed in other ones than the library reads
 * them from, and LLVM ends the process. So each part is as wide as the compiler's registers. */
#define TANH_1(x) tanh(x)
#define EXP_1(x) exp(x)
#define SQRT_1(x) sqrt(x)
#define EXPM1_1(x) expm1(x)
#define LOG1P_1(x) log1p(x)
#if defined(__SSE2__) && !defined(__AVX__)
#define IN_8(f, x) ((float8)(f((x).lo), f((x).hi)))
#else
#define IN_8(f, x) f(x)
#endif
#ifdef __AVX512F__
#define IN_16(f, x) f(x)
#else
#define IN_16(f, x) ((float16)(IN_8(f, (x).lo), IN_8(f, (x).hi)))
#endif
#define TANH_8(x) IN_8(tanh, x)
#define EXP_8(x) IN_8(exp, x)
#define EXPM1_8(x) IN_8(expm1, x)
#define LOG1P_8(x) IN_8(log1p, x)
#define TANH_16(x) IN_16(tanh, x)
#define EXP_16(x) IN_16(exp, x)
#define SQRT_16(x) IN_16(sqrt, x)
#define EXPM1_16(x) IN_16(expm1, x)
#define LOG1P_16(x) IN_16(log1p, x)

#define DEFINE_ACTIVATIONS(SUFFIX, T)                                                              \
  /* A NaN must stay one, so that the check of finiteness sees it: fmax would hide it. */          \
  static inline T activate_##SUFFIX(T x, int activation)                                           \
  {                                                                                                \
    if (activation == ACTIVATION_RELU) return x < 0 ? (T)0 : x;                                    \
    if (activation == ACTIVATION_TANH) return TANH_##SUFFIX(x);                                    \
    if (activation == ACTIVATION_SIGMOID) return (T)1 / ((T)1 + EXP_##SUFFIX(-x));                 \
    if (activation == ACTIVATION_LEAKY_RELU) return x < 0 ? x * (T)LEAK : x;                       \
    if (activation == ACTIVATION_ELU) return x < 0 ? EXPM1_##SUFFIX(x) : x;                        \
    if (activation == ACTIVATION_SOFTPLUS)                                                         \
      return (x < 0 ? (T)0 : x) + LOG1P_##SUFFIX(EXP_##SUFFIX(x < 0 ? x : -x));                    \
    if (activation == ACTIVATION_HARDTANH) return x < -1 ? (T)-1 : x > 1 ? (T)1 : x;               \
    return x;                                                                                      \
  }                                                                                                \
  static inline T derive_##SUFFIX(T delta, T y, int activation)                                    \
  {                                                                                                \
    if (activation == ACTIVATION_RELU) return y <= 0 ? (T)0 : delta;                               \
    if (activation == ACTIVATION_TANH) return delta * ((T)1 - y * y);                              \
    if (activation == ACTIVATION_SIGMOID) return delta * (y * ((T)1 - y));                         \
    if (activation == ACTIVATION_LEAKY_RELU) return y < 0 ? delta * (T)LEAK : delta;               \
    if (activation == ACTIVATION_ELU) return y < 0 ? delta * (y + (T)1) : delta;                   \
    if (activation == ACTIVATION_SOFTPLUS) return delta * -EXPM1_##SUFFIX(-y);                     \
    if (activation == ACTIVATION_HARDTANH) return y <= -1 || y >= 1 ? (T)0 : delta;                \
    return delta;                                                                                  \
  }

DEFINE_ACTIVATIONS(1, float)
#if LANES == 16
DEFINE_ACTIVATIONS(16, float16)
#endif
