/* Asking for memory before it is read. Where the compiler knows no such thing nothing is asked for. */

/* For what is read next: into the first cache. */
static inline void soon(const __global float *at)
{
#if PREFETCH
  __builtin_prefetch((const void *)(size_t)at);
#endif
}

/* For what is read after all that is computed now: into the second cache, as the first one is full. */
static inline void later(const __global float *at)
{
#if PREFETCH
  __builtin_prefetch((const void *)(size_t)at, 0, 2);
#endif
}

/* The lines of a panel of B, 16 values each: of every row one, or where B lies turned over, 16 rows'
 * first lines, then their second ones. */
#if B_TURNED
#define LINE_OF_B(at, line, stride) ((at) + (size_t)((line) % 16) * (stride) + (line) / 16 * 16)
#else
#define LINE_OF_B(at, line, stride) ((at) + (size_t)(line) * (stride))
#endif
