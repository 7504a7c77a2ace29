/* Says by its group's size how many floats the compiler's widest instructions take; never run. */
#ifdef __AVX512F__
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

__kernel __attribute__((reqd_work_group_size(WIDTH, 1, 1)))
void width(__global float *unused)
{
}
