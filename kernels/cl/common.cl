/* Shared by every program. LANES (16 on CPU devices, 1 elsewhere) comes from the build options.
 *
 * Vectors are dereferenced through pointers of 4-byte alignment instead of vload16 and vstore16,
 * and products are written a * b + c instead of fma(): on PoCL 3.0 (LLVM 14) those built-ins are
 * calls that spill registers, while these become single AVX-512 instructions.
 */

typedef float16 loose16 __attribute__((aligned(4)));
typedef float8 loose8 __attribute__((aligned(4)));
typedef int16 loose_int16 __attribute__((aligned(4)));

#define LOAD16(p) (*(const __global loose16 *)(p))
#define LOAD8(p) (*(const __global loose8 *)(p))
#define STORE16(p, v) (*(__global loose16 *)(p) = (v))
#define STORE8(p, v) (*(__global loose8 *)(p) = (v))

#define DEFINE_ACTIVATIONS(SUFFIX, T)                                                              \
  /* A NaN must stay one, so that the check of finiteness sees it: fmax would hide it. */          \
  static inline T activate_##SUFFIX(T x, int activation)                                           \
  {                                                                                                \
    if (activation == ACTIVATION_RELU) return x < 0 ? (T)0 : x;                                    \
    if (activation == ACTIVATION_TANH) return tanh(x);                                             \
    if (activation == ACTIVATION_SIGMOID) return (T)1 / ((T)1 + exp(-x));                          \
    return x;                                                                                      \
  }                                                                                                \
  static inline T derive_##SUFFIX(T delta, T y, int activation)                                    \
  {                                                                                                \
    if (activation == ACTIVATION_RELU) return y <= 0 ? (T)0 : delta;                               \
    if (activation == ACTIVATION_TANH) return delta * ((T)1 - y * y);                              \
    if (activation == ACTIVATION_SIGMOID) return delta * (y * ((T)1 - y));                         \
    return delta;                                                                                  \
  }

DEFINE_ACTIVATIONS(1, float)
#if LANES == 16
DEFINE_ACTIVATIONS(16, float16)
#endif
