/* Turn 16 vectors of 16 over: four rounds that interleave the halves. */
static inline void turn16(float16 *r)
{
  float16 t[16];
#pragma unroll
  for (int round = 0; round < 4; round++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float16 x = r[i], y = r[i + 8];
      t[2 * i] = (float16)(x.s0, y.s0, x.s1, y.s1, x.s2, y.s2, x.s3, y.s3,
                           x.s4, y.s4, x.s5, y.s5, x.s6, y.s6, x.s7, y.s7);
      t[2 * i + 1] = (float16)(x.s8, y.s8, x.s9, y.s9, x.sa, y.sa, x.sb, y.sb,
                               x.sc, y.sc, x.sd, y.sd, x.se, y.se, x.sf, y.sf);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) r[i] = t[i];
  }
}
