/* Lay planes [h,w] out as [padded_h, row]: `phases` runs of `run` elements in each row, zeros where
 * the plane has none. An item is a plane. */
__kernel void unfold(
  const __global float *x, ulong x_at, __global float *out, int h, int w, int padded_h, int row,
  int run, int phases, int pad_y, int pad_x, ulong items, int share)
{
  const ulong first = get_global_id(0) * (ulong)share;
  for (ulong item = first; item < min(first + share, items); item++) {
    const __global float *plane = x + x_at + item * h * w;
    __global float *to = out + item * padded_h * row;
    for (int y = 0; y < padded_h; y++, to += row) {
      const bool inside = y >= pad_y && y < pad_y + h;
      const __global float *from = plane + (y - pad_y) * w;
      if (inside && phases == 1) {
        int at = 0;
        for (; at < pad_x; at++) to[at] = 0;
        int left = w;
        for (; left >= 8; left -= 8, at += 8) STORE8(to + at, LOAD8(from + at - pad_x));
        for (; left > 0; left--, at++) to[at] = from[at - pad_x];
        for (; at < row; at++) to[at] = 0;
        continue;
      }
      for (int at = 0; at < row; at++) {
        const int column = at % run * phases + at / run - pad_x;
        const bool there = inside && at / run < phases && column >= 0 && column < w;
        to[at] = there ? from[column] : 0;
      }
    }
  }
}
