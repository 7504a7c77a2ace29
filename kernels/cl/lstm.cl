/* The elementwise part of an LSTM's cell; an item is an element of the state [B,n].
 *
 * gates[B,4n] has input, forget, candidate and output gates one after the other in each row.
 */

/* Go over the elements of a work-item by runs in one row: STATEMENT(SUFFIX, T, LOAD, STORE) has the
 * element's place x in the state and the place i of its input gate. Where vectors are used, what is
 * left of a row goes through one too: so a result does not depend on where a work-item begins. */
#if LANES == 16
#define LOAD_SOME(p) load_some(p, stop - x)
#define STORE_SOME(p, v) store_some(p, v, stop - x)
#define ROW(STATEMENT)                                                                             \
  for (; x + 16 <= stop; x += 16, i += 16) { STATEMENT(16, float16, LOAD16, STORE16) }             \
  if (x < stop) { STATEMENT(16, float16, LOAD_SOME, STORE_SOME) }
#else
#define STORE1(p, v) *(p) = v
#define ROW(STATEMENT)                                                                             \
  for (; x < stop; x++, i++) { STATEMENT(1, float, *, STORE1) }
#endif
#define EACH_ELEMENT(STATEMENT)                                                                    \
  for (ulong start = first; start < end;) {                                                        \
    const ulong row = start / n, stop = min(end, (row + 1) * n);                                   \
    ulong x = start, i = row * 3 * n + start;                                                      \
    ROW(STATEMENT)                                                                                 \
    start = stop;                                                                                  \
  }

#define SIGMOID(SUFFIX, x) activate_##SUFFIX(x, ACTIVATION_SIGMOID)

/* gates become the activated sums of gates and recurrent. */
__kernel void lstm_cell(
  __global float *gates, ulong gates_at, const __global float *recurrent, ulong recurrent_at,
  const __global float *cell, ulong cell_at, __global float *new_cell, ulong new_cell_at,
  __global float *new_hidden, ulong new_hidden_at, ulong n, ulong items, int share)
{
  ELEMENTS
  gates += gates_at;
  recurrent += recurrent_at;
  cell += cell_at;
  new_cell += new_cell_at;
  new_hidden += new_hidden_at;
#define GATE(LOAD, place) LOAD(gates + place) + LOAD(recurrent + place)
#define FORWARD(SUFFIX, T, LOAD, STORE)                                                            \
  const T input = SIGMOID(SUFFIX, GATE(LOAD, i));                                                  \
  const T forget = SIGMOID(SUFFIX, GATE(LOAD, i + n));                                             \
  const T candidate = TANH_##SUFFIX((GATE(LOAD, i + 2 * n)));                                      \
  const T output = SIGMOID(SUFFIX, GATE(LOAD, i + 3 * n));                                         \
  const T state = forget * LOAD(cell + x) + input * candidate;                                     \
  STORE(gates + i, input);                                                                         \
  STORE(gates + i + n, forget);                                                                    \
  STORE(gates + i + 2 * n, candidate);                                                             \
  STORE(gates + i + 3 * n, output);                                                                \
  STORE(new_cell + x, state);                                                                      \
  STORE(new_hidden + x, output * TANH_##SUFFIX(state));
  EACH_ELEMENT(FORWARD)
}

/* by_hidden is from above, the next two from the next step; where there is none, `last` is 1. */
__kernel void lstm_cell_back(
  const __global float *by_hidden, ulong by_hidden_at, const __global float *by_next_hidden,
  ulong by_next_hidden_at, const __global float *by_next_cell, ulong by_next_cell_at,
  const __global float *gates, ulong gates_at, const __global float *cell, ulong cell_at,
  const __global float *new_cell, ulong new_cell_at, __global float *by_gates, ulong by_gates_at,
  __global float *by_cell, ulong by_cell_at, ulong n, int last, ulong items, int share)
{
  ELEMENTS
  by_hidden += by_hidden_at;
  by_next_hidden += by_next_hidden_at;
  by_next_cell += by_next_cell_at;
  gates += gates_at;
  cell += cell_at;
  new_cell += new_cell_at;
  by_gates += by_gates_at;
  by_cell += by_cell_at;
#define BACK(SUFFIX, T, LOAD, STORE)                                                               \
  const T input = LOAD(gates + i), forget = LOAD(gates + i + n);                                   \
  const T candidate = LOAD(gates + i + 2 * n), output = LOAD(gates + i + 3 * n);                   \
  const T state = TANH_##SUFFIX((LOAD(new_cell + x)));                                             \
  T given = LOAD(by_hidden + x);                                                                   \
  if (!last) given += LOAD(by_next_hidden + x);                                                    \
  T by_state = given * output * (1 - state * state);                                               \
  if (!last) by_state += LOAD(by_next_cell + x);                                                   \
  STORE(by_gates + i, by_state * candidate * input * (1 - input));                                 \
  STORE(by_gates + i + n, by_state * LOAD(cell + x) * forget * (1 - forget));                      \
  STORE(by_gates + i + 2 * n, by_state * input * (1 - candidate * candidate));                     \
  STORE(by_gates + i + 3 * n, given * state * output * (1 - output));                              \
  STORE(by_cell + x, by_state * forget);
  EACH_ELEMENT(BACK)
}
