/* Sum x[B,C,P] over images and places into out[C]: sixteen sums, each of every sixteenth place, image
 * after image, added up by halves. An item is a channel. */
__kernel void channel_sum(
  const __global float *x, ulong x_at, __global float *out, ulong out_at, int batch, int channels,
  int places, ulong items, int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong channel = first; channel < min(first + share, items); channel++) {
    float16 sum = 0;
    for (int b = 0; b < batch; b++) {
      const __global float *from = x + x_at + ((ulong)b * channels + channel) * places;
      int place = 0;
      for (; place + 16 <= places; place += 16) sum += LOAD16(from + place);
      float rest[16] = {0};
      for (int lane = 0; place + lane < places; lane++) rest[lane] = from[place + lane];
      if (place < places) sum += *(const loose16 *)rest;
    }
    const float8 eight = sum.lo + sum.hi;
    const float4 four = eight.lo + eight.hi;
    const float2 two = four.lo + four.hi;
    out[out_at + channel] = two.x + two.y;
  }
}
