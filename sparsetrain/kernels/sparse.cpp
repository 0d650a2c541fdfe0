// Products with a matrix whose nonzeros are few, for the CPU; compiled together with native.cpp.
//
// A matrix W [n_rows, n_cols] is given twice: by rows (row_start, cols, values) and by columns (col_start, rows, order: where in
// `values` each stands). Activations are [n, width], features last, as everywhere in the model. What makes a sparse product fast
// is that one nonzero is worth a whole vector of tokens, so each thread turns kTokens of them round into a buffer
// [width, kTokens] that stays in its cache, works there, and turns the result back.
// 1. multiply: y = x W^T + bias.
// 2. multiply_backward: dx = dy W, and the gradients of values and bias; all three from one turning of dy and x.
// 3. lookup_backward: gradients of the nonzeros of an embedding.
// 4. adamw: the update of AdamW at the nonzeros alone.
// Each thread has its own tokens and sums; they are added in the order of threads, so equal numbers of threads give equal bits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kTokens = 32;  // two vectors: halves the cost of reading an index, and [4096, 32] still fits a cache of 1 MB
constexpr int64_t kWorth = 1 << 15;  // multiplications below which one thread does it all

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(64)));
typedef int32_t Lanes __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(64)));

struct Buffer {  // aligned floats
  explicit Buffer(int64_t n) : data((float*)::operator new[](std::max<int64_t>(n, 1) * sizeof(float), std::align_val_t(64))) {}
  ~Buffer() { ::operator delete[](data, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* data;
};

inline Vector load(const float* from) {
  Vector x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

inline void store(float* to, Vector x) { std::memcpy(to, &x, sizeof x); }

// The lanes `at` of a and b, which are counted from 0 and from kLanes.
inline Vector shuffled(Vector a, Vector b, Lanes at) {
#ifdef __clang__
  Vector x;
  for (int64_t i = 0; i < kLanes; i++) x[i] = at[i] < kLanes ? a[at[i]] : b[at[i] - kLanes];
  return x;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

// Lanes of two vectors: the first halves of both in blocks of kBlock, and the second halves.
template <int64_t kBlock>
struct Halves {
  Halves() {
    for (int64_t i = 0; i < kLanes; i++) {
      low[i] = int32_t(i & kBlock ? i - kBlock + kLanes : i);
      high[i] = int32_t(i & kBlock ? i + kLanes : i + kBlock);
    }
  }
  Lanes low, high;
};

// Turns a square of 16 x 16 round: the off-diagonal blocks of 8, 4, 2, 1 change places.
template <int64_t kBlock>
inline void swap_blocks(Vector* rows) {
  const Halves<kBlock> of;
  for (int64_t i = 0; i < kLanes; i++) {
    if (i & kBlock) continue;
    const Vector a = rows[i], b = rows[i + kBlock];
    rows[i] = shuffled(a, b, of.low);
    rows[i + kBlock] = shuffled(a, b, of.high);
  }
}

inline void turn_square(Vector* rows) {
  swap_blocks<8>(rows);
  swap_blocks<4>(rows);
  swap_blocks<2>(rows);
  swap_blocks<1>(rows);
}

template <int64_t kBlock>
inline void add_blocks(Vector* rows) {
  const Halves<kBlock> of;
  for (int64_t i = 0; i < kBlock; i++)
    rows[i] = shuffled(rows[i], rows[i + kBlock], of.low) + shuffled(rows[i], rows[i + kBlock], of.high);
}

// The sums over the lanes of 16 vectors, one in each lane; the vectors are used up.
inline Vector sums_of(Vector* rows) {
  add_blocks<8>(rows);
  add_blocks<4>(rows);
  add_blocks<2>(rows);
  add_blocks<1>(rows);
  return rows[0];
}

// to[i] += the sum over the lanes of the i-th of n <= 16 vectors; they are used up.
inline void add_sums(Vector* rows, int64_t n, float* to) {
  if (n < kLanes) {
    for (int64_t i = n; i < kLanes; i++) rows[i] = Vector{};
    float found[kLanes];
    store(found, sums_of(rows));
    for (int64_t i = 0; i < n; i++) to[i] += found[i];
  } else {
    store(to, load(to) + sums_of(rows));
  }
}

// to[width, kTokens] = from[n_tokens, width] turned round; tokens that are missing count as zeros.
void turn_in(const float* from, int64_t n_tokens, int64_t width, float* to) {
  Vector square[kLanes];
  for (int64_t half = 0; half < kTokens; half += kLanes) {
    const int64_t n = std::clamp<int64_t>(n_tokens - half, 0, kLanes);
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      for (int64_t i = 0; i < kLanes; i++) square[i] = i < n ? load(from + (half + i) * width + c) : Vector{};
      turn_square(square);
      for (int64_t i = 0; i < kLanes; i++) store(to + (c + i) * kTokens + half, square[i]);
    }
    for (; c < width; c++)
      for (int64_t i = 0; i < kLanes; i++) to[c * kTokens + half + i] = i < n ? from[(half + i) * width + c] : 0.0f;
  }
}

// to[n_tokens, width] = from[width, kTokens] turned round.
void turn_out(const float* from, int64_t n_tokens, int64_t width, float* to) {
  Vector square[kLanes];
  for (int64_t half = 0; half < kTokens; half += kLanes) {
    const int64_t n = std::clamp<int64_t>(n_tokens - half, 0, kLanes);
    int64_t c = 0;
    for (; c + kLanes <= width; c += kLanes) {
      for (int64_t i = 0; i < kLanes; i++) square[i] = load(from + (c + i) * kTokens + half);
      turn_square(square);
      for (int64_t i = 0; i < n; i++) store(to + (half + i) * width + c, square[i]);
    }
    for (; c < width; c++)
      for (int64_t i = 0; i < n; i++) to[(half + i) * width + c] = from[c * kTokens + half + i];
  }
}

// to[line, kTokens] = start[line] + sum over the line's nonzeros of value * from[at, kTokens]
void multiply_block(int64_t n_lines, const int32_t* line_start, const int32_t* at, const float* values, const float* start,
                    const float* from, float* to) {
  for (int64_t line = 0; line < n_lines; line++) {
    const float first = start == nullptr ? 0.0f : start[line];
    Vector a = Vector{} + first, b = a;
    for (int32_t j = line_start[line]; j < line_start[line + 1]; j++) {
      const float* x = from + int64_t(at[j]) * kTokens;
      a += values[j] * load(x);
      b += values[j] * load(x + kLanes);
    }
    store(to + line * kTokens, a);
    store(to + line * kTokens + kLanes, b);
  }
}

int team_for(int64_t work, int n_threads) { return work < kWorth ? 1 : n_threads; }

struct Blocks {  // of tokens that are this thread's
  int64_t begin, end;
};

int64_t team_size() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

int64_t my_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

Blocks my_blocks(int64_t n) {
  const int64_t n_blocks = (n + kTokens - 1) / kTokens, team = team_size(), i = my_number();
  return {n_blocks * i / team, n_blocks * (i + 1) / team};
}

}  // namespace

extern "C" {

// How many nonzeros each row has, summed up: row_start[n_rows + 1].
void sparsetrain_count_rows(const float* w, int64_t n_rows, int64_t n_cols, int32_t* row_start, int32_t n_threads) {
  const int team = team_for(n_rows * n_cols, n_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (int64_t r = 0; r < n_rows; r++) {
    const float* row = w + r * n_cols;
    int32_t n = 0;
    for (int64_t c = 0; c < n_cols; c++) n += row[c] != 0.0f;
    row_start[r + 1] = n;
  }
  row_start[0] = 0;
  for (int64_t r = 0; r < n_rows; r++) row_start[r + 1] += row_start[r];
}

// Where the nonzeros stand, row by row.
void sparsetrain_find_columns(const float* w, int64_t n_rows, int64_t n_cols, const int32_t* row_start, int32_t* cols,
                              int32_t n_threads) {
  const int team = team_for(n_rows * n_cols, n_threads);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (int64_t r = 0; r < n_rows; r++) {
    const float* row = w + r * n_cols;
    int32_t j = row_start[r];
    const int32_t end = row_start[r + 1];
    for (int64_t c = 0; c < n_cols && j < end; c += kLanes) {
      const int64_t stop = std::min(c + kLanes, n_cols);
      bool any = false;
      for (int64_t i = c; i < stop; i++) any |= row[i] != 0.0f;
      if (!any) continue;
      for (int64_t i = c; i < stop; i++)
        if (row[i] != 0.0f) cols[j++] = int32_t(i);
    }
  }
}

// The same nonzeros column by column.
void sparsetrain_by_columns(int64_t n_rows, int64_t n_cols, const int32_t* row_start, const int32_t* cols, int32_t* col_start,
                            int32_t* rows, int32_t* order) {
  std::memset(col_start, 0, (n_cols + 1) * sizeof(int32_t));
  const int32_t n = row_start[n_rows];
  for (int32_t j = 0; j < n; j++) col_start[cols[j] + 1]++;
  for (int64_t c = 0; c < n_cols; c++) col_start[c + 1] += col_start[c];
  std::unique_ptr<int32_t[]> next(new int32_t[n_cols]);
  std::memcpy(next.get(), col_start, n_cols * sizeof(int32_t));
  for (int64_t r = 0; r < n_rows; r++) {
    for (int32_t j = row_start[r]; j < row_start[r + 1]; j++) {
      const int32_t at = next[cols[j]]++;
      rows[at] = int32_t(r);
      order[at] = j;
    }
  }
}

// y[n, n_rows] = x[n, n_cols] W^T + bias (null: none)
void sparsetrain_multiply(const float* x, int64_t n, int64_t n_rows, int64_t n_cols, const int32_t* row_start, const int32_t* cols,
                          const float* values, const float* bias, float* y, int32_t n_threads) {
  const int team = team_for(n * (row_start[n_rows] + n_rows + n_cols), n_threads);
#pragma omp parallel num_threads(team) if (team > 1)
  {
    Buffer in(n_cols * kTokens), out(n_rows * kTokens);
    const Blocks mine = my_blocks(n);
    for (int64_t block = mine.begin; block < mine.end; block++) {
      const int64_t first = block * kTokens, n_tokens = std::min(kTokens, n - first);
      turn_in(x + first * n_cols, n_tokens, n_cols, in.data);
      multiply_block(n_rows, row_start, cols, values, bias, in.data, out.data);
      turn_out(out.data, n_tokens, n_rows, y + first * n_rows);
    }
  }
}

// dx[n, n_cols] = dy W; dvalues[j] = sum over tokens of dy[row] x[col]; dbias[row] = sum of dy[row]. dx, dvalues and dbias may be null.
// `sums` is room for (n_values + n_rows) floats a thread.
void sparsetrain_multiply_backward(const float* dy, const float* x, int64_t n, int64_t n_rows, int64_t n_cols,
                                   const int32_t* row_start, const int32_t* cols, const int32_t* col_start, const int32_t* rows,
                                   const float* values_by_column, float* dx, float* dvalues, float* dbias, float* sums,
                                   int32_t n_threads) {
  const int64_t n_values = row_start[n_rows], n_sums = n_values + n_rows;
  const int team = team_for(n * (n_values + n_rows + n_cols), n_threads);
#pragma omp parallel num_threads(team) if (team > 1)
  {
    const int64_t n_team = team_size();  // may be fewer than were asked for
    float* my_values = sums + my_number() * n_sums;
    float* my_bias = my_values + n_values;
    std::memset(my_values, 0, n_sums * sizeof(float));
    Buffer out(n_rows * kTokens), in(dvalues == nullptr ? 0 : n_cols * kTokens), back(dx == nullptr ? 0 : n_cols * kTokens);
    const Blocks mine = my_blocks(n);
    for (int64_t block = mine.begin; block < mine.end; block++) {
      const int64_t first = block * kTokens, n_tokens = std::min(kTokens, n - first);
      turn_in(dy + first * n_rows, n_tokens, n_rows, out.data);
      if (dx != nullptr) {
        multiply_block(n_cols, col_start, rows, values_by_column, nullptr, out.data, back.data);
        turn_out(back.data, n_tokens, n_cols, dx + first * n_cols);
      }
      if (dvalues != nullptr) turn_in(x + first * n_cols, n_tokens, n_cols, in.data);
      if (dbias != nullptr) {
        Vector pending[kLanes];
        for (int64_t r = 0; r < n_rows; r += kLanes) {
          const int64_t n_pending = std::min(kLanes, n_rows - r);
          for (int64_t i = 0; i < n_pending; i++)
            pending[i] = load(out.data + (r + i) * kTokens) + load(out.data + (r + i) * kTokens + kLanes);
          add_sums(pending, n_pending, my_bias + r);
        }
      }
      if (dvalues != nullptr) {
        Vector pending[kLanes];
        int64_t n_pending = 0;
        float* to = my_values;
        for (int64_t r = 0; r < n_rows; r++) {
          const Vector a = load(out.data + r * kTokens), b = load(out.data + r * kTokens + kLanes);
          for (int32_t j = row_start[r]; j < row_start[r + 1]; j++) {
            const float* column = in.data + int64_t(cols[j]) * kTokens;
            pending[n_pending++] = a * load(column) + b * load(column + kLanes);
            if (n_pending < kLanes) continue;
            add_sums(pending, n_pending, to);
            to += kLanes;
            n_pending = 0;
          }
        }
        add_sums(pending, n_pending, to);
      }
    }
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n_sums; i++) {
      float total = 0.0f;
      for (int64_t thread = 0; thread < n_team; thread++) total += sums[thread * n_sums + i];
      if (i < n_values && dvalues != nullptr) dvalues[i] = total;
      if (i >= n_values && dbias != nullptr) dbias[i - n_values] = total;
    }
  }
}

// dvalues[j] = sum over the tokens of its row of dy[col]; `ids` are the rows that were looked up.
void sparsetrain_lookup_backward(const int64_t* ids, const float* dy, int64_t n, int64_t n_rows, int64_t n_cols,
                                 const int32_t* row_start, const int32_t* cols, float* dvalues, int32_t n_threads) {
  std::memset(dvalues, 0, row_start[n_rows] * sizeof(float));
  const int team = team_for(n * n_cols, n_threads);
#pragma omp parallel num_threads(team) if (team > 1)
  {
    const int64_t n_team = team_size();
    const int64_t first = n_rows * my_number() / n_team, last = n_rows * (my_number() + 1) / n_team;
    for (int64_t i = 0; i < n; i++) {
      const int64_t r = ids[i];
      if (r < first || r >= last) continue;
      for (int32_t j = row_start[r]; j < row_start[r + 1]; j++) dvalues[j] += dy[i * n_cols + cols[j]];
    }
  }
}

// One step of AdamW at the nonzeros: weights (and moments, unless they are compressed) stand in dense tensors at `places`.
void sparsetrain_adamw(float* w, float* first, float* second, const int64_t* places, const float* gradient, int64_t n,
                       int32_t compressed, double rate, double beta1, double beta2, double eps, double decay, double step) {
  const float keep = float(1 - rate * decay), b1 = float(beta1), b2 = float(beta2), e = float(eps);
  const float size = float(rate / (1 - std::pow(beta1, step))), root = float(std::sqrt(1 - std::pow(beta2, step)));
  for (int64_t j = 0; j < n; j++) {
    const int64_t at = places[j], moment = compressed ? j : at;
    const float g = gradient[j];
    const float m = first[moment] + (g - first[moment]) * (1 - b1);
    const float v = second[moment] * b2 + g * g * (1 - b2);
    first[moment] = m;
    second[moment] = v;
    w[at] = w[at] * keep - size * m / (std::sqrt(v) / root + e);
  }
}
}
