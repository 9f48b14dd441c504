/* The executor of integer programs, C99. docs/integers.md has the definition.
 *
 * A value is an array [rows, width] of int8, int16 or int32 in the caller's
 * arena, or of float32. Bytes are moved by memcpy: an arena needs no alignment,
 * and no compiler may assume types of what lies in it. Each operation loads a
 * block of a row into int32, works on that, and stores it.
 *
 * Results are the same in any compiler and with any flags but those of
 * -ffast-math. Products and quotients of float32 numbers round once, to
 * float32; no product is added to anything as a float.
 */
#ifndef LORAP_ENGINE_H
#define LORAP_ENGINE_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "-ffast-math changes results"
#endif

/* What a run returns. */
enum {
  LORAP_OK = 0,
  LORAP_ARENA_TOO_SMALL = 1,
  LORAP_NEGATIVE_COUNT = 2,
  LORAP_TOO_MANY_NODES = 3,
  LORAP_TOO_MANY_EDGES = 4,
  LORAP_TOO_MANY_GRAPHS = 5,
  LORAP_BAD_FEATURE = 6,       /* NaN or infinite */
  LORAP_BAD_EDGE = 7,          /* an end that is no node */
  LORAP_BAD_GRAPH_OF = 8,      /* no graph, or not in order */
  LORAP_DEGREE_TOO_LARGE = 9,  /* more edges into a node than sums have room */
  LORAP_GRAPH_TOO_LARGE = 10,  /* more nodes in a graph than sums have room */
  LORAP_BAD_TYPE = 11          /* a first feature that is none of the types */
};

#define LORAP_BLOCK 128  /* columns that are worked on at a time */
#define LORAP_STRIP 24  /* rows that go through a loop at a time */
#define LORAP_KNOWN 512  /* numbers of a table at hand, of whole blocks */
#define LORAP_COLUMNS 32 /* of a product, a multiple of 4 */
#define LORAP_LANES 32 /* steps of a loop that becomes vectors, at -O2 too */
#define LORAP_EXACT 16777215.0f /* largest result of a rint in `scale` */
#define LORAP_LARGEST 16777216.0f /* of one in `fix` */

typedef struct {
  void *at;
  int size; /* bytes of a number: 1, 2 or 4 */
  int width;
} lorap_value;

typedef struct {
  const int32_t *senders, *receivers, *graph_of;
  int n, e, g;
} lorap_graph;

/* Constants. Codes of 1 to 24 bits lie in blocks of LORAP_BLOCK, each as fields
 * of 8, 4, 2 and 1 bits. A code c stands for (c + offset) 2**k, or, if there is
 * a fraction, ((1 << fraction) + its lowest bits) << the others, times 2**k.
 * Of 32 bits are int32 or float32 as they are. */
typedef struct {
  const uint8_t *at;
  int bits, count;
  int32_t offset;
  int fraction;  /* -1: none */
  int shift;     /* k, of whole numbers */
  float unit;    /* 2**k */
} lorap_table;

#define LORAP_NO_TABLE (lorap_table){NULL, 1, 0, 0, -1, 0, 1.0f}

typedef struct {
  lorap_table factor;  /* of 1 or all columns */
  lorap_table bias;    /* of all columns, or of none */
  const void *row;     /* float32 [rows], or NULL */
  int32_t low, high;
} lorap_scaling;

typedef struct {
  int max_nodes, max_edges, max_graphs, features;
  int types; /* of the first feature; 0: any number */
  int max_degree, max_nodes_of_graph; /* -1: any number */
  size_t arena_bytes;
} lorap_limits;

/* x87 keeps more bits than float32 until a number is stored. Products and
 * quotients of float32 numbers that round twice on the way are still right. */
#if defined FLT_EVAL_METHOD && FLT_EVAL_METHOD == 0
#define LORAP_F32(x) (x)
#else
#define LORAP_F32(x) lorap_f32(x)
#endif

static inline float lorap_f32(float x) {
  volatile float stored = x;
  return stored;
}

/* rint(x), ties to even; what lies outside of -most..most, at those ends. The
 * bits of x are taken first: so x is a float32, and no compiler can contract
 * its product with the subtraction below. All the rest is exact. */
static inline int32_t lorap_rint(float x, float most) {
  int32_t bits, size, end, sign, t;
  float a, rest;
  memcpy(&bits, &x, sizeof bits);
  memcpy(&end, &most, sizeof end);
  size = bits & INT32_MAX;
  size = size < end ? size : end; /* in the order of the numbers themselves */
  memcpy(&a, &size, sizeof a);
  t = (int32_t)a;
  rest = a - (float)t;
  t += (rest > 0.5f) | ((rest == 0.5f) & t);
  sign = -(bits < 0);
  return (t ^ sign) - sign;
}

static inline int32_t lorap_clip(int32_t x, int32_t low, int32_t high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

/* How many of those that are left are worked on now. */
static inline int lorap_some(size_t left, int most) {
  return left < (size_t)most ? (int)left : most;
}

/* `count` numbers of one type as another, from any address to any other; with
 * `plus` added to what is there. The last ones are copied together with some
 * before them, which are there already. */
#define LORAP_EACH(FROM, from, TO, to, count, plus)                          \
  do {                                                                       \
    const int8_t *source = (const int8_t *)(from);                           \
    int8_t *target = (int8_t *)(to);                                         \
    int all = (count), at = 0, lane;                                         \
    FROM in[LORAP_LANES];                                                    \
    TO out[LORAP_LANES];                                                     \
    for (; at < all; at += LORAP_LANES) {                                    \
      if (all - at < LORAP_LANES) {                                          \
        if ((plus) || all < LORAP_LANES) break;                              \
        at = all - LORAP_LANES;                                              \
      }                                                                      \
      memcpy(in, source + (size_t)at * sizeof *in, sizeof in);               \
      if (plus) memcpy(out, target + (size_t)at * sizeof *out, sizeof out);  \
      for (lane = 0; lane < LORAP_LANES; lane++)                             \
        out[lane] = (TO)((plus) ? out[lane] + in[lane] : in[lane]);          \
      memcpy(target + (size_t)at * sizeof *out, out, sizeof out);            \
    }                                                                        \
    for (; at < all; at++) {                                                 \
      memcpy(in, source + (size_t)at * sizeof *in, sizeof *in);              \
      if (plus) memcpy(out, target + (size_t)at * sizeof *out, sizeof *out); \
      *out = (TO)((plus) ? *out + *in : *in);                                \
      memcpy(target + (size_t)at * sizeof *out, out, sizeof *out);           \
    }                                                                        \
  } while (0)

/* Numbers `first` to `first + count` of a value, as int32. */
static inline void lorap_load(lorap_value v, size_t first, int count,
                              int32_t *to) {
  const int8_t *from = (const int8_t *)v.at + first * (size_t)v.size;
  if (v.size == 1)
    LORAP_EACH(int8_t, from, int32_t, to, count, 0);
  else if (v.size == 2)
    LORAP_EACH(int16_t, from, int32_t, to, count, 0);
  else
    LORAP_EACH(int32_t, from, int32_t, to, count, 0);
}

static inline void lorap_load16(lorap_value v, size_t first, int count,
                                int16_t *to) {
  const int8_t *from = (const int8_t *)v.at + first * (size_t)v.size;
  if (v.size == 1)
    LORAP_EACH(int8_t, from, int16_t, to, count, 0);
  else
    memcpy(to, from, (size_t)count * sizeof *to);
}

static inline void lorap_store(lorap_value v, size_t first, int count,
                               const int32_t *from) {
  int8_t *to = (int8_t *)v.at + first * (size_t)v.size;
  if (v.size == 1)
    LORAP_EACH(int32_t, from, int8_t, to, count, 0);
  else if (v.size == 2)
    LORAP_EACH(int32_t, from, int16_t, to, count, 0);
  else
    LORAP_EACH(int32_t, from, int32_t, to, count, 0);
}

static inline int32_t lorap_get(lorap_value v, size_t index) {
  int32_t x;
  lorap_load(v, index, 1, &x);
  return x;
}

static inline void lorap_put(lorap_value v, size_t index, int32_t x) {
  lorap_store(v, index, 1, &x);
}

static inline float lorap_get_f32(const void *v, size_t index) {
  float x;
  memcpy(&x, (const char *)v + index * sizeof x, sizeof x);
  return x;
}

static inline void lorap_put_f32(void *v, size_t index, float x) {
  memcpy((char *)v + index * sizeof x, &x, sizeof x);
}

/* The rows of a value from `first` on. */
static inline lorap_value lorap_from(lorap_value v, int first) {
  size_t row = (size_t)v.width * (size_t)v.size;
  v.at = (unsigned char *)v.at + (size_t)first * row;
  return v;
}

static inline void lorap_zero(lorap_value v, int rows) {
  memset(v.at, 0, (size_t)rows * (size_t)v.width * (size_t)v.size);
}

/* A function that takes `count` codes in fields apart, as numbers of a type.
 * Byte j of a field of w bits has number j in its lowest bits, then j + bytes,
 * j + 2 bytes, ...: so each step fills a run. */
#define LORAP_UNPACK(NAME, TYPE)                                          \
  static inline const uint8_t *NAME(const uint8_t *from, int bits,        \
                                    int count, TYPE *to) {                \
    int done = 0, width, j;                                               \
    for (; done < bits; done += width) {                                  \
      int left = count, mask, parts, bytes, part;                         \
      TYPE *run = to;                                                     \
      width = lorap_field(bits - done);                                   \
      mask = (1 << width) - 1;                                            \
      parts = 8 / width;                                                  \
      bytes = (count + parts - 1) / parts;                                \
      for (part = 0; part < parts; part++, run += bytes, left -= bytes) { \
        int shift = part * width, some = left < bytes ? left : bytes;     \
        if (done)                                                         \
          for (j = 0; j < some; j++)                                      \
            run[j] = (TYPE)(run[j] | ((from[j] >> shift) & mask) << done); \
        else                                                              \
          for (j = 0; j < some; j++)                                      \
            run[j] = (TYPE)((from[j] >> shift) & mask);                   \
      }                                                                   \
      from += bytes;                                                      \
    }                                                                     \
    return from;                                                          \
  }

/* Bits of the next field of those that are left. */
static inline int lorap_field(int bits) {
  return bits >= 8 ? 8 : bits & 4 ? 4 : bits & 2 ? 2 : 1;
}

LORAP_UNPACK(lorap_unpack, int32_t)
LORAP_UNPACK(lorap_unpack16, int16_t)

/* What a code stands for, but for its unit. */
static inline int32_t lorap_decoded(lorap_table t, int32_t code) {
  if (t.fraction < 0) return code + t.offset;
  return ((1 << t.fraction) + (code & ((1 << t.fraction) - 1)))
         << (code >> t.fraction);
}

/* x 2**shift, a whole number. */
static inline int32_t lorap_shifted(int32_t x, int shift) {
  return shift < 0 ? x / ((int32_t)1 << -shift) : x * ((int32_t)1 << shift);
}

/* The block of codes from `first` on, a multiple of LORAP_BLOCK. */
static inline int lorap_codes(lorap_table t, size_t first, int32_t *to) {
  int count = lorap_some((size_t)t.count - first, LORAP_BLOCK), j;
  if (t.bits == 32) {
    memcpy(to, t.at + first * sizeof *to, (size_t)count * sizeof *to);
    return count;
  }
  lorap_unpack(t.at + first / 8 * (size_t)t.bits, t.bits, count, to);
  for (j = 0; j < count; j++) to[j] = lorap_decoded(t, to[j]);
  return count;
}

/* Some of the numbers of a table, as float32. */
static inline void lorap_reals(lorap_table t, size_t first, float *to) {
  int32_t codes[LORAP_BLOCK];
  int count = lorap_codes(t, first, codes), j;
  if (t.bits == 32)
    memcpy(to, codes, (size_t)count * sizeof *to);
  else
    for (j = 0; j < count; j++) to[j] = (float)codes[j] * t.unit;
}

/* The same as int32. */
static inline void lorap_wholes(lorap_table t, size_t first, int32_t *to) {
  int count = lorap_codes(t, first, to), j;
  for (j = 0; t.shift && j < count; j++) to[j] = lorap_shifted(to[j], t.shift);
}

/* Number `index` of a table, but for its unit; all bits of one of 32 bits. */
static inline int32_t lorap_entry(lorap_table t, size_t index) {
  size_t first = index / LORAP_BLOCK * LORAP_BLOCK;
  int count = lorap_some((size_t)t.count - first, LORAP_BLOCK);
  int place = (int)(index - first), done = 0, width;
  const uint8_t *from = t.at + first / 8 * (size_t)t.bits;
  int32_t code = 0;
  if (t.bits == 32) {
    memcpy(&code, t.at + index * sizeof code, sizeof code);
    return code;
  }
  for (; done < t.bits; done += width) {
    int parts, bytes, at = place, shift = 0;
    width = lorap_field(t.bits - done);
    parts = 8 / width;
    bytes = (count + parts - 1) / parts;
    for (; at >= bytes; at -= bytes) shift += width; /* no slow division */
    code |= ((from[at] >> shift) & ((1 << width) - 1)) << done;
    from += bytes;
  }
  return lorap_decoded(t, code);
}

static inline int32_t lorap_whole(lorap_table t, size_t index) {
  return lorap_shifted(lorap_entry(t, index), t.shift);
}

/* The first LORAP_KNOWN numbers of a table that is read often, */
static inline void lorap_first(lorap_table t, int32_t *known) {
  int i;
  for (i = 0; i < t.count && i < LORAP_KNOWN; i += LORAP_BLOCK)
    lorap_wholes(t, (size_t)i, known + i);
}

/* and any of it. */
static inline int32_t lorap_known(lorap_table t, const int32_t *known,
                                  size_t index) {
  return index < LORAP_KNOWN ? known[index] : lorap_whole(t, index);
}

/* Whether a graph can be run. The arena counts edges before it holds values. */
static inline int lorap_check(const lorap_limits *limits, const float *nodes,
                              const lorap_graph *graph, void *arena,
                              size_t arena_bytes) {
  int n = graph->n, e = graph->e, g = graph->g, i, run = 0;
  size_t j, numbers;
  lorap_value count = {0, 4, 1};
  if (arena_bytes < limits->arena_bytes) return LORAP_ARENA_TOO_SMALL;
  if (!arena && limits->arena_bytes) return LORAP_ARENA_TOO_SMALL;
  if (n < 0 || e < 0 || g < 0) return LORAP_NEGATIVE_COUNT;
  if (n > limits->max_nodes) return LORAP_TOO_MANY_NODES;
  if (e > limits->max_edges) return LORAP_TOO_MANY_EDGES;
  if (g > limits->max_graphs) return LORAP_TOO_MANY_GRAPHS;
  numbers = (size_t)n * (size_t)limits->features;
  for (j = 0; j < numbers; j++) {
    uint32_t bits;
    memcpy(&bits, nodes + j, sizeof bits);
    if ((bits & 0x7f800000u) == 0x7f800000u) return LORAP_BAD_FEATURE;
  }
  for (i = 0; i < n && limits->types; i++) {
    float type = nodes[(size_t)i * (size_t)limits->features];
    if (!(type >= 0 && type < (float)limits->types)) return LORAP_BAD_TYPE;
    if ((float)(int)type != type) return LORAP_BAD_TYPE;
  }
  for (i = 0; i < e; i++) {
    if (graph->senders[i] < 0 || graph->senders[i] >= n) return LORAP_BAD_EDGE;
    if (graph->receivers[i] < 0 || graph->receivers[i] >= n)
      return LORAP_BAD_EDGE;
  }
  for (i = 0; i < n; i++) {
    int32_t own = graph->graph_of[i];
    if (own < 0 || own >= g) return LORAP_BAD_GRAPH_OF;
    if (i > 0 && own < graph->graph_of[i - 1]) return LORAP_BAD_GRAPH_OF;
    run = i > 0 && own == graph->graph_of[i - 1] ? run + 1 : 1;
    if (limits->max_nodes_of_graph >= 0 && run > limits->max_nodes_of_graph)
      return LORAP_GRAPH_TOO_LARGE;
  }
  if (limits->max_degree < 0 || e <= limits->max_degree) return LORAP_OK;
  count.at = arena;
  lorap_zero(count, n);
  for (i = 0; i < e; i++) {
    size_t to = (size_t)graph->receivers[i];
    int32_t edges = lorap_get(count, to) + 1;
    if (edges > limits->max_degree) return LORAP_DEGREE_TOO_LARGE;
    lorap_put(count, to, edges);
  }
  return LORAP_OK;
}

/* rint(x), |x| <= 2**24. By an instruction where all chips of the target have
 * it. Else what is left of x beside an even number is rounded, halves to even,
 * by a sum whose last bit is 1. `none` is 0, which no compiler knows: so none
 * can contract a product that x is with the difference. */
#if defined __GNUC__ && (defined __SSE4_1__ || defined __aarch64__)
#define LORAP_NEAREST(x, none) ((void)(none), (int32_t)__builtin_rintf(x))
#else
#define LORAP_NEAREST(x, none) lorap_near(x, none)
#endif

static inline int32_t lorap_near(float x, int32_t none) {
  int32_t bits, even;
  memcpy(&bits, &x, sizeof bits);
  bits ^= none;
  memcpy(&x, &bits, sizeof bits);
  even = (int32_t)x & ~1;
  x = LORAP_F32(x - (float)even);
  x = LORAP_F32(x + 12582912.0f);
  memcpy(&bits, &x, sizeof bits);
  return bits - 0x4b400000 + even;
}

/* What results are made with: products in least..most are rounded. With `sums`
 * those get a bias, and limits again. */
typedef struct {
  float factor[LORAP_BLOCK], least, most;
  int32_t bias[LORAP_BLOCK], low, high, none;
  int sums;
} lorap_rounding;

/* LORAP_LANES results, from column j of a block on. */
static inline void lorap_round(const float *restrict f, float row,
                               const lorap_rounding *restrict r, int j,
                               int32_t *restrict q) {
  const float *factor = r->factor + j, least = r->least, most = r->most;
  const int32_t *bias = r->bias + j, low = r->low, high = r->high;
  const int32_t none = r->none;
  int lane;
  (void)none;
  for (lane = 0; lane < LORAP_LANES; lane++) {
    float x = LORAP_F32(f[lane] * row); /* of no row: of 1, exact */
    x = LORAP_F32(x * factor[lane]);
    x = x > least ? x : least;
    x = x < most ? x : most;
    q[lane] = LORAP_NEAREST(x, none);
  }
  for (lane = 0; r->sums && lane < LORAP_LANES; lane++) {
    int32_t t = q[lane] + bias[lane];
    t = t > low ? t : low;
    q[lane] = t < high ? t : high;
  }
}

/* LORAP_LANES numbers of a type as those of another. */
#define LORAP_LANES_AS(FROM, from, TO, to)                    \
  do {                                                        \
    FROM in[LORAP_LANES];                                     \
    TO out[LORAP_LANES];                                      \
    int lane;                                                 \
    memcpy(in, from, sizeof in);                              \
    for (lane = 0; lane < LORAP_LANES; lane++)                \
      out[lane] = (TO)in[lane];                               \
    memcpy(to, out, sizeof out);                              \
  } while (0)

/* Numbers of a value, or of floats x, as float32. */
static inline void lorap_floats(lorap_value a, const void *x, size_t first,
                                float *f) {
  const int8_t *from = (const int8_t *)a.at + first * (size_t)a.size;
  if (x)
    memcpy(f, (const float *)x + first, LORAP_LANES * sizeof *f);
  else if (a.size == 1)
    LORAP_LANES_AS(int8_t, from, float, f);
  else if (a.size == 2)
    LORAP_LANES_AS(int16_t, from, float, f);
  else
    LORAP_LANES_AS(int32_t, from, float, f);
}

static inline void lorap_keep(lorap_value y, size_t first, const int32_t *q) {
  int8_t *to = (int8_t *)y.at + first * (size_t)y.size;
  if (y.size == 1)
    LORAP_LANES_AS(int32_t, q, int8_t, to);
  else if (y.size == 2)
    LORAP_LANES_AS(int32_t, q, int16_t, to);
  else
    memcpy(to, q, LORAP_LANES * sizeof *q);
}

/* A few results, one by one. */
static inline void lorap_round_few(lorap_value a, const void *x, size_t first,
                                   int count, float row,
                                   const lorap_rounding *r, lorap_value y) {
  int32_t q[LORAP_LANES] = {0};
  float f[LORAP_LANES];
  int j;
  memset(f, 0, sizeof f);
  for (j = 0; j < count; j++)
    f[j] = x ? lorap_get_f32(x, first + (size_t)j)
             : LORAP_F32((float)lorap_get(a, first + (size_t)j));
  lorap_round(f, row, r, 0, q);
  for (j = 0; j < count; j++) lorap_put(y, first + (size_t)j, q[j]);
}

/* A block of a row. What does not fill LORAP_LANES at its end is read, with some
 * that is before it, first of all and written last: y may lie where a lies. */
static inline void lorap_round_block(lorap_value a, const void *x, size_t first,
                                     int count, float row,
                                     const lorap_rounding *r, lorap_value y) {
  float f[LORAP_LANES];
  int32_t q[LORAP_LANES], last[LORAP_LANES];
  int j, end = count - LORAP_LANES;
  if (end < 0) {
    lorap_round_few(a, x, first, count, row, r, y);
    return;
  }
  if (end % LORAP_LANES) {
    lorap_floats(a, x, first + (size_t)end, f);
    lorap_round(f, row, r, end, last);
  }
  for (j = 0; j <= end; j += LORAP_LANES) {
    lorap_floats(a, x, first + (size_t)j, f);
    lorap_round(f, row, r, j, q);
    lorap_keep(y, first + (size_t)j, q);
  }
  if (end % LORAP_LANES) lorap_keep(y, first + (size_t)end, last);
}

/* clip(rint(f32(a) row factor) + bias), or of floats x instead of a. */
static inline void lorap_affine(int rows, lorap_value a, const void *x,
                                lorap_value y, const lorap_scaling *s,
                                const lorap_value *limit) {
  const float end = x ? LORAP_LARGEST : LORAP_EXACT;
  const int32_t whole = (int32_t)end;
  volatile int32_t unknown = 0;
  lorap_rounding r;
  size_t i, c, count = (size_t)rows, width = (size_t)y.width;
  int j;
  if (!s->row && !s->bias.count && !limit && s->factor.count == 1) {
    width *= count; /* rows are all alike: one long row */
    count = count > 0;
  }
  memset(&r, 0, sizeof r);
  r.none = unknown;
  r.sums = s->bias.count > 0;
  lorap_reals(s->factor, 0, r.factor);
  for (j = 1; j < LORAP_BLOCK && s->factor.count == 1; j++)
    r.factor[j] = r.factor[0];
  for (i = 0; i < count; i++) {
    float row = s->row ? lorap_get_f32(s->row, i) : 1.0f;
    int32_t most = limit ? lorap_get(*limit, i) : INT32_MAX;
    r.low = lorap_clip(s->low, -most, most);
    r.high = lorap_clip(s->high, -most, most);
    r.least = r.sums ? -end : (float)lorap_clip(r.low, -whole, whole);
    r.most = r.sums ? end : (float)lorap_clip(r.high, -whole, whole);
    for (c = 0; c < width; c += LORAP_BLOCK) {
      int block = lorap_some(width - c, LORAP_BLOCK);
      if (i == 0 || width > LORAP_BLOCK) {
        if (s->factor.count > 1) lorap_reals(s->factor, c, r.factor);
        if (s->bias.count) lorap_wholes(s->bias, c, r.bias);
      }
      lorap_round_block(a, x, i * width + c, block, row, &r, y);
    }
  }
}

static inline void lorap_fix(int rows, const void *x, lorap_value y,
                             lorap_scaling s) {
  lorap_affine(rows, y, x, y, &s, NULL);
}

static inline void lorap_scale(int rows, lorap_value a, lorap_value y,
                               lorap_scaling s) {
  lorap_affine(rows, a, NULL, y, &s, NULL);
}

static inline void lorap_scale_to(int rows, lorap_value a, lorap_value limit,
                                  lorap_value y, lorap_scaling s) {
  lorap_affine(rows, a, NULL, y, &s, &limit);
}

/* Four sums of products of `depth` numbers with columns that lie `apart`:
 * compilers make vectors of this. */
static inline void lorap_dot(const int16_t *x, const int16_t *w, int apart,
                             int depth, int32_t *to) {
  const int16_t *w1 = w + apart, *w2 = w1 + apart, *w3 = w2 + apart;
  int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  int j;
  for (j = 0; j < depth; j++) {
    int32_t a = x[j];
    s0 += a * w[j];
    s1 += a * w1[j];
    s2 += a * w2[j];
    s3 += a * w3[j];
  }
  to[0] = s0;
  to[1] = s1;
  to[2] = s2;
  to[3] = s3;
}

/* The same for numbers of more than 16 bits, which are rare. */
static inline void lorap_dot_wide(const int32_t *x, const int16_t *w,
                                  int depth, int32_t *to) {
  int c, j;
  for (c = 0; c < 4; c++, w += depth) {
    to[c] = 0;
    for (j = 0; j < depth; j++) to[c] += x[j] * w[j];
  }
}

/* a W + bias, of LORAP_STRIP rows or fewer. Some columns of W at a time are
 * unpacked for all of them. A sum goes on behind its column, to whole vectors,
 * where x is 0. */
static inline void lorap_product(int rows, lorap_value a, lorap_value y,
                                 const uint8_t *weight, int bits,
                                 lorap_table bias) {
  int16_t w[(LORAP_COLUMNS + 1) * LORAP_BLOCK];
  int16_t x[LORAP_STRIP * LORAP_BLOCK];
  int32_t wide[LORAP_BLOCK], sum[LORAP_COLUMNS], total[LORAP_COLUMNS];
  int32_t first[LORAP_BLOCK];
  int c, k, i, j;
  memset(w, 0, sizeof w);
  memset(first, 0, sizeof first);
  for (k = 0; k < a.width; k += LORAP_BLOCK) {
    int depth = lorap_some((size_t)(a.width - k), LORAP_BLOCK);
    int whole = (depth + 15) / 16 * 16;
    for (i = 0; i < rows && a.size < 4; i++) {
      int16_t *one = x + i * LORAP_BLOCK;
      lorap_load16(a, (size_t)i * (size_t)a.width + (size_t)k, depth, one);
      for (j = depth; j < whole; j++) one[j] = 0;
    }
    for (c = 0; c < y.width; c += LORAP_COLUMNS) {
      int columns = lorap_some((size_t)(y.width - c), LORAP_COLUMNS);
      int count = depth * columns;
      const int32_t *start = first + c % LORAP_BLOCK;
      if (k == 0 && c % LORAP_BLOCK == 0 && bias.count)
        lorap_wholes(bias, (size_t)c, first);
      weight = lorap_unpack16(weight, bits, count, w);
      for (j = 0; j < count; j++) w[j] = (int16_t)(w[j] - (1 << (bits - 1)));
      for (i = 0; i < rows; i++) {
        size_t to = (size_t)i * (size_t)y.width + (size_t)c;
        if (a.size == 4) {
          lorap_load(a, (size_t)i * (size_t)a.width + (size_t)k, depth, wide);
          for (j = 0; j < columns; j += 4)
            lorap_dot_wide(wide, w + j * depth, depth, sum + j);
        } else {
          for (j = 0; j < columns; j += 4)
            lorap_dot(x + i * LORAP_BLOCK, w + j * depth, depth, whole, sum + j);
        }
        if (k > 0) {
          lorap_load(y, to, columns, total);
          for (j = 0; j < columns; j++) sum[j] += total[j];
        } else {
          for (j = 0; j < columns; j++) sum[j] += start[j];
        }
        lorap_store(y, to, columns, sum);
      }
    }
  }
}

/* Row `to` of y += row `from` of a, for sums of 16 bits. */
static inline void lorap_plus16(lorap_value a, size_t from, lorap_value y,
                                size_t to) {
  size_t width = (size_t)a.width;
  const int8_t *sent = (const int8_t *)a.at + from * width * (size_t)a.size;
  int8_t *total = (int8_t *)y.at + to * width * sizeof(int16_t);
  if (a.size == 1)
    LORAP_EACH(int8_t, sent, int16_t, total, a.width, 1);
  else
    LORAP_EACH(int16_t, sent, int16_t, total, a.width, 1);
}

/* Row `to` of y += w times row `from` of a. */
static inline void lorap_plus(lorap_value a, size_t from, int32_t w,
                              lorap_value y, size_t to) {
  int32_t sent[LORAP_BLOCK], total[LORAP_BLOCK];
  int c, j;
  for (c = 0; c < a.width; c += LORAP_BLOCK) {
    int block = lorap_some((size_t)(a.width - c), LORAP_BLOCK);
    size_t place = to * (size_t)a.width + (size_t)c;
    lorap_load(a, from * (size_t)a.width + (size_t)c, block, sent);
    lorap_load(y, place, block, total);
    for (j = 0; j < block; j++) total[j] += sent[j] * w;
    lorap_store(y, place, block, total);
  }
}

/* The sum over edges; `weight` [e, heads] may be NULL. The columns of a head
 * are a row of a [n heads, width / heads]. */
static inline void lorap_sum_edges(const lorap_graph *graph, lorap_value a,
                                   const lorap_value *weight, lorap_value y,
                                   int drop_loops) {
  int half = !weight && y.size == 2 && a.size <= 2, i;
  size_t k, heads = weight ? (size_t)weight->width : 1;
  lorap_zero(y, graph->n);
  a.width /= (int)heads;
  for (i = 0; i < graph->e; i++) {
    size_t from = (size_t)graph->senders[i], to = (size_t)graph->receivers[i];
    if (drop_loops && from == to) continue;
    if (half)
      lorap_plus16(a, from, y, to);
    else
      for (k = 0; k < heads; k++)
        lorap_plus(a, from * heads + k,
                   weight ? lorap_get(*weight, (size_t)i * heads + k) : 1, y,
                   to * heads + k);
  }
}

/* The node at an end of edge i, or of the self loop of node i. */
static inline size_t lorap_at(const int32_t *ends, int i, int loops) {
  return (size_t)(loops ? i : ends[i]);
}

/* The left half of the sender's a plus the right half of the receiver's. */
static inline void lorap_meet(const lorap_graph *graph, lorap_value a,
                              lorap_value y, int loops) {
  int i, rows = loops ? graph->n : graph->e;
  size_t j, heads = (size_t)y.width;
  for (i = 0; i < rows; i++) {
    size_t sent = 2 * heads * lorap_at(graph->senders, i, loops);
    size_t received = 2 * heads * lorap_at(graph->receivers, i, loops) + heads;
    for (j = 0; j < heads; j++)
      lorap_put(y, (size_t)i * heads + j,
                lorap_get(a, sent + j) + lorap_get(a, received + j));
  }
}

/* The larger of the start, or of 0, and the edges into each node. */
static inline void lorap_max_into(const lorap_graph *graph, lorap_value a,
                                  const lorap_value *start, lorap_value y) {
  int i;
  size_t j, heads = (size_t)y.width, count = (size_t)graph->n * heads;
  lorap_zero(y, graph->n);
  for (j = 0; start && j < count; j++) {
    int32_t x = lorap_get(*start, j);
    if (x > 0) lorap_put(y, j, x);
  }
  for (i = 0; i < graph->e; i++) {
    size_t to = (size_t)graph->receivers[i] * heads;
    for (j = 0; j < heads; j++) {
      int32_t x = lorap_get(a, (size_t)i * heads + j);
      if (x > lorap_get(y, to + j)) lorap_put(y, to + j, x);
    }
  }
}

static inline void lorap_sum_into(const lorap_graph *graph, lorap_value a,
                                  lorap_value y) {
  int i;
  size_t j, heads = (size_t)y.width;
  lorap_zero(y, graph->n);
  for (i = 0; i < graph->e; i++) {
    size_t to = (size_t)graph->receivers[i] * heads;
    for (j = 0; j < heads; j++)
      lorap_put(y, to + j, lorap_get(y, to + j) +
                               lorap_get(a, (size_t)i * heads + j));
  }
}

/* table[min(b - a, last)], b at the receiver. */
static inline void lorap_powers(const lorap_graph *graph, lorap_value a,
                                lorap_value b, lorap_table table,
                                lorap_value y, int loops) {
  int32_t known[LORAP_KNOWN];
  int i, rows = loops ? graph->n : graph->e, last = table.count - 1;
  size_t j, heads = (size_t)y.width;
  lorap_first(table, known);
  for (i = 0; i < rows; i++) {
    size_t to = lorap_at(graph->receivers, i, loops) * heads;
    size_t from = (size_t)i * heads;
    for (j = 0; j < heads; j++) {
      int32_t below = lorap_get(b, to + j) - lorap_get(a, from + j);
      size_t index = (size_t)(below < last ? below : last);
      lorap_put(y, from + j, lorap_known(table, known, index));
    }
  }
}

/* rint((a (1 / b)) share), b at the receiver. */
static inline void lorap_shares(const lorap_graph *graph, lorap_value a,
                                lorap_value b, lorap_value y, int32_t share,
                                int loops) {
  int i, rows = loops ? graph->n : graph->e;
  size_t j, heads = (size_t)y.width;
  for (i = 0; i < rows; i++) {
    size_t to = lorap_at(graph->receivers, i, loops) * heads;
    size_t from = (size_t)i * heads;
    for (j = 0; j < heads; j++) {
      float part = LORAP_F32((float)lorap_get(a, from + j));
      float total = LORAP_F32((float)lorap_get(b, to + j));
      float inverse = LORAP_F32(1.0f / total);
      part = LORAP_F32(part * inverse);
      part = LORAP_F32(part * (float)share);
      lorap_put(y, from + j, lorap_rint(part, LORAP_EXACT));
    }
  }
}

/* The columns of a head are a row of a [rows heads, width / heads]. */
static inline void lorap_weigh(int rows, lorap_value a, lorap_value row,
                               lorap_value y) {
  int32_t q[LORAP_BLOCK];
  int i, c, j;
  rows *= row.width;
  a.width /= row.width;
  for (i = 0; i < rows; i++) {
    int32_t w = lorap_get(row, (size_t)i);
    for (c = 0; c < a.width; c += LORAP_BLOCK) {
      size_t first = (size_t)i * (size_t)a.width + (size_t)c;
      int block = lorap_some((size_t)(a.width - c), LORAP_BLOCK);
      lorap_load(a, first, block, q);
      for (j = 0; j < block; j++) q[j] *= w;
      lorap_store(y, first, block, q);
    }
  }
}

static inline void lorap_add(int rows, lorap_value a, lorap_value b,
                             lorap_value y) {
  int32_t p[LORAP_BLOCK], q[LORAP_BLOCK];
  size_t i, count = (size_t)rows * (size_t)y.width;
  int j;
  for (i = 0; i < count; i += LORAP_BLOCK) {
    int block = lorap_some(count - i, LORAP_BLOCK);
    lorap_load(a, i, block, p);
    lorap_load(b, i, block, q);
    for (j = 0; j < block; j++) p[j] += q[j];
    lorap_store(y, i, block, p);
  }
}

static inline void lorap_relu(int rows, lorap_value a, lorap_value y) {
  int32_t q[LORAP_BLOCK];
  size_t i, count = (size_t)rows * (size_t)y.width;
  int j;
  for (i = 0; i < count; i += LORAP_BLOCK) {
    int block = lorap_some(count - i, LORAP_BLOCK);
    lorap_load(a, i, block, q);
    for (j = 0; j < block; j++) q[j] = q[j] > 0 ? q[j] : 0;
    lorap_store(y, i, block, q);
  }
}

static inline void lorap_row_max(int rows, lorap_value a, lorap_value y) {
  int32_t q[LORAP_BLOCK];
  int i, c, j;
  for (i = 0; i < rows; i++) {
    int32_t most = 0;
    for (c = 0; c < a.width; c += LORAP_BLOCK) {
      int block = lorap_some((size_t)(a.width - c), LORAP_BLOCK);
      lorap_load(a, (size_t)i * (size_t)a.width + (size_t)c, block, q);
      for (j = 0; j < block; j++) {
        int32_t size = q[j] < 0 ? -q[j] : q[j];
        most = most < size ? size : most;
      }
    }
    lorap_put(y, (size_t)i, most);
  }
}

/* How many numbers of a table, which are in order, are reached; with `pairs`,
 * how many sums of two neighbors twice the number reaches. */
static inline void lorap_find(int rows, lorap_value a, lorap_table t, int pairs,
                              lorap_value y) {
  int32_t known[LORAP_KNOWN];
  int i;
  lorap_first(t, known);
  for (i = 0; i < rows; i++) {
    int32_t x = lorap_get(a, (size_t)i * (size_t)a.width) * (1 + pairs);
    int low = 0, high = t.count - pairs;
    while (low < high) {
      int middle = low + (high - low) / 2;
      int32_t least = lorap_known(t, known, (size_t)middle);
      if (pairs) least += lorap_known(t, known, (size_t)middle + 1);
      if (least <= x)
        low = middle + 1;
      else
        high = middle;
    }
    lorap_put(y, (size_t)i, low);
  }
}

static inline void lorap_search(int rows, lorap_value a, lorap_table thresholds,
                                lorap_value y) {
  lorap_find(rows, a, thresholds, 0, y);
}

static inline void lorap_nearest(int rows, lorap_value a, lorap_table ranges,
                                 lorap_value y) {
  lorap_find(rows, a, ranges, 1, y);
}

/* Of a table of rows, a row. */
static inline void lorap_lookup(int rows, lorap_value a, lorap_table table,
                                lorap_value y) {
  int i;
  size_t j, width = (size_t)y.width;
  for (i = 0; i < rows; i++) {
    size_t index = (size_t)lorap_get(a, (size_t)i * (size_t)a.width);
    for (j = 0; j < width; j++)
      lorap_put(y, (size_t)i * width + j,
                lorap_whole(table, index * width + j));
  }
}

static inline void lorap_lookup_f32(int rows, lorap_value a, lorap_table table,
                                    void *y) {
  int i;
  for (i = 0; i < rows; i++) {
    int32_t x = lorap_get(a, (size_t)i * (size_t)a.width);
    int32_t entry = lorap_entry(table, (size_t)x);
    float real = (float)entry * table.unit;
    if (table.bits == 32) memcpy(&real, &entry, sizeof real);
    lorap_put_f32(y, (size_t)i, real);
  }
}

/* The first node behind those of graph k, which begin at `start`. */
static inline int lorap_end(const lorap_graph *graph, int k, int start) {
  while (start < graph->n && graph->graph_of[start] == k) start++;
  return start;
}

/* The sum, or the largest, of the nodes of each graph; 0 for none. `a` are the
 * nodes from `first` on, behind all before them. */
static inline void lorap_pool(const lorap_graph *graph, int first, int rows,
                              lorap_value a, lorap_value y, int largest) {
  int32_t q[LORAP_BLOCK], total[LORAP_BLOCK];
  int i, c, j;
  if (first == 0) lorap_zero(y, graph->g);
  for (i = 0; i < rows; i++) {
    const int32_t *own = graph->graph_of + first + i;
    int fresh = first + i == 0 || own[-1] != own[0];
    for (c = 0; c < a.width; c += LORAP_BLOCK) {
      int block = lorap_some((size_t)(a.width - c), LORAP_BLOCK);
      size_t to = (size_t)own[0] * (size_t)a.width + (size_t)c;
      lorap_load(a, (size_t)i * (size_t)a.width + (size_t)c, block, q);
      if (!fresh) {
        lorap_load(y, to, block, total);
        if (largest)
          for (j = 0; j < block; j++) q[j] = q[j] < total[j] ? total[j] : q[j];
        else
          for (j = 0; j < block; j++) q[j] += total[j];
      }
      lorap_store(y, to, block, q);
    }
  }
}

static inline void lorap_pool_share(const lorap_graph *graph, void *y) {
  int k, start = 0, end;
  for (k = 0; k < graph->g; k++, start = end) {
    int count;
    end = lorap_end(graph, k, start);
    count = end - start > 1 ? end - start : 1;
    lorap_put_f32(y, (size_t)k, LORAP_F32(1.0f / LORAP_F32((float)count)));
  }
}

static inline void lorap_row_index(int first, int rows, lorap_value y) {
  int i;
  for (i = 0; i < rows; i++) lorap_put(y, (size_t)i, first + i);
}

static inline void lorap_degrees(const lorap_graph *graph, lorap_value y) {
  int i;
  lorap_zero(y, graph->n);
  for (i = 0; i < graph->e; i++) {
    size_t to = (size_t)graph->receivers[i];
    lorap_put(y, to, lorap_get(y, to) + 1);
  }
}

/* 1 less the self loops of each node; 1 if those are kept and another added. */
static inline void lorap_add_loops(const lorap_graph *graph, lorap_value y,
                                   int keep) {
  int i;
  for (i = 0; i < graph->n; i++) lorap_put(y, (size_t)i, 1);
  if (keep) return;
  for (i = 0; i < graph->e; i++) {
    size_t to = (size_t)graph->receivers[i];
    if (graph->senders[i] == graph->receivers[i])
      lorap_put(y, to, lorap_get(y, to) - 1);
  }
}

static inline void lorap_edge_norm(const lorap_graph *graph, const void *row,
                                   void *y) {
  int i;
  for (i = 0; i < graph->e; i++) {
    float s = lorap_get_f32(row, (size_t)graph->senders[i]);
    float r = lorap_get_f32(row, (size_t)graph->receivers[i]);
    lorap_put_f32(y, (size_t)i, LORAP_F32(s * r));
  }
}

static inline void lorap_loop_norm(int rows, const void *row, lorap_value a,
                                   void *y) {
  int i;
  for (i = 0; i < rows; i++) {
    float r = lorap_get_f32(row, (size_t)i);
    float count = LORAP_F32((float)lorap_get(a, (size_t)i));
    lorap_put_f32(y, (size_t)i, LORAP_F32(LORAP_F32(r * r) * count));
  }
}

/* a (1 / b), in two roundings. */
static inline void lorap_quotient(int rows, lorap_value a, lorap_value b,
                                  void *y) {
  int i;
  for (i = 0; i < rows; i++) {
    float over = LORAP_F32((float)lorap_get(a, (size_t)i));
    float under = LORAP_F32((float)lorap_get(b, (size_t)i));
    float inverse = LORAP_F32(1.0f / under);
    lorap_put_f32(y, (size_t)i, LORAP_F32(over * inverse));
  }
}

/* rint(p share (1 / sum of p)), p = table[min(max - a, last)], in each row. */
static inline void lorap_soften(int rows, lorap_value a, lorap_table table,
                                lorap_value y, int32_t share) {
  int32_t known[LORAP_KNOWN];
  int i, j;
  lorap_first(table, known);
  for (i = 0; i < rows; i++) {
    size_t first = (size_t)i * (size_t)a.width;
    int32_t most = lorap_get(a, first), total = 0, last = table.count - 1;
    float inverse;
    for (j = 1; j < a.width; j++) {
      int32_t x = lorap_get(a, first + (size_t)j);
      most = most < x ? x : most;
    }
    for (j = 0; j < a.width; j++) {
      int32_t below = most - lorap_get(a, first + (size_t)j);
      total += lorap_known(table, known, (size_t)(below < last ? below : last));
    }
    inverse = LORAP_F32(1.0f / LORAP_F32((float)total));
    for (j = 0; j < a.width; j++) {
      int32_t below = most - lorap_get(a, first + (size_t)j);
      size_t index = (size_t)(below < last ? below : last);
      int32_t p = lorap_known(table, known, index);
      float part = LORAP_F32((float)(p * share));
      part = LORAP_F32(part * inverse);
      lorap_put(y, first + (size_t)j, lorap_rint(part, LORAP_EXACT));
    }
  }
}

#endif /* LORAP_ENGINE_H */
