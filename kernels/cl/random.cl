/* Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11). */

/* The four words of the block so many after the counter. */
static inline uint4 philox(
  ulong counter_low, ulong counter_high, ulong block, uint key_low, uint key_high)
{
  const ulong low = counter_low + block;
  const ulong high = counter_high + (low < counter_low ? 1 : 0);
  uint c0 = (uint)low, c1 = (uint)(low >> 32), c2 = (uint)high, c3 = (uint)(high >> 32);
  uint k0 = key_low, k1 = key_high;
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const ulong p0 = (ulong)0xD2511F53u * c0, p1 = (ulong)0xCD9E8D57u * c2;
    c0 = (uint)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint)p1;
    c2 = (uint)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (uint4)(c0, c1, c2, c3);
}

/* `value` where a comparison holds, else 0: lane by lane, for Oclgrind 21.10 takes a vector of truths
 * that is converted to numbers for 255. */
static inline float4 chosen(int4 truth, float value)
{
  return (float4)(truth.x ? value : 0, truth.y ? value : 0, truth.z ? value : 0, truth.w ? value : 0);
}

/* The upper 24 bits, which a float holds exactly. */
static inline float4 unit(uint4 words) { return convert_float4(words >> 8) * 0x1p-24f; }

/* Store a block's four numbers, but for those past the end. */
static inline void store_block(__global float *out, ulong block, ulong size, float4 numbers)
{
  const ulong at = block * 4;
  out[at] = numbers.x;
  if (at + 1 < size) out[at + 1] = numbers.y;
  if (at + 2 < size) out[at + 2] = numbers.z;
  if (at + 3 < size) out[at + 3] = numbers.w;
}

/* Two independent normals from two uniforms: Box and Muller 1958. 1 - u is never 0. */
static inline float2 box_muller(float u, float v)
{
  const float radius = sqrt(-2.0f * log(1.0f - u));
  return radius * (float2)(cospi(2.0f * v), sinpi(2.0f * v));
}

#define STREAM ulong size, ulong counter_low, ulong counter_high, uint key_low, uint key_high
#define WORDS(block) philox(counter_low, counter_high, block, key_low, key_high)

/* Fill out[size] with uniforms in [0, 1), four to a block; an item is a block. */
__kernel void uniform_numbers(__global float *out, ulong out_at, STREAM, ulong items, int share)
{
  EACH_ITEM(block) store_block(out + out_at, block, size, unit(WORDS(block)));
}

/* The same with normals. */
__kernel void normal_numbers(__global float *out, ulong out_at, STREAM, ulong items, int share)
{
  EACH_ITEM(block)
  {
    const float4 u = unit(WORDS(block));
    const float4 found = (float4)(box_muller(u.x, u.y), box_muller(u.z, u.w));
    store_block(out + out_at, block, size, found);
  }
}

/* The same with ones where a word's upper 24 bits are below the threshold, zeros elsewhere. */
__kernel void bernoulli_numbers(
  __global float *out, ulong out_at, STREAM, uint threshold, ulong items, int share)
{
  EACH_ITEM(block)
  store_block(out + out_at, block, size, chosen(WORDS(block) >> 8 < threshold, 1.0f));
}

/* Bring the stream's position to private memory: key and counter, low words first. */
#define POSITION                                                                                   \
  const __global uint *words = (const __global uint *)(stream + stream_at);                        \
  const uint key_low = words[0], key_high = words[1];                                              \
  const ulong start_low = words[2] | (ulong)words[3] << 32;                                        \
  const ulong start_high = words[4] | (ulong)words[5] << 32;                                       \
  const ulong counter_low = start_low + block_first;                                               \
  const ulong counter_high = start_high + (counter_low < start_low ? 1 : 0);

/* Times 0 or `scale`: a product, so that a NaN stays one. An item is a block of four elements. */
__kernel void dropout(
  const __global float *x, ulong x_at, __global float *out, ulong out_at,
  const __global int *stream, ulong stream_at, ulong size, ulong block_first, uint threshold,
  float scale, ulong items, int share)
{
  if (get_global_id(0) * (ulong)share >= items) return;
  POSITION
  x += x_at;
  out += out_at;
  EACH_ITEM(block)
  {
    const float4 factors = chosen(WORDS(block) >> 8 >= threshold, scale);
    const ulong at = block * 4;
    if (at + 4 <= size) {
      vstore4(vload4(0, x + at) * factors, 0, out + at);
      continue;
    }
    out[at] = x[at] * factors.x;
    if (at + 1 < size) out[at + 1] = x[at + 1] * factors.y;
    if (at + 2 < size) out[at + 2] = x[at + 2] * factors.z;
  }
}
