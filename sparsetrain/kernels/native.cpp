// Row top-k by magnitude and whole-tensor projection for the CPU; compiled on first use by native.py, called by ctypes.
//
// A float's bits without the sign, read as an integer, order like its magnitude: all selection happens on these keys.
// 1. abs_topk: a row's threshold is the largest t with count(key >= t) >= k. Rows of one batch look alike, so the search
//    starts at the last row's threshold and steps by its slope; counting passes run over keys that lie in L1.
// 2. project: one pass counts the keys above a window and collects those inside; the window is around the last
//    step's threshold, or a bin of a histogram when there is none or it missed. A radix select on the collected keys
//    gives the exact threshold; a second pass zeroes what is below it. A floor changes each line's threshold to
//    min(t, the line's floor-th largest key). All decisions depend on int64 counts alone, which could be summed over ranks.
// Loops are plain C++ that compilers vectorise; the few that they cannot (packing bits, compressing) have AVX2 forms.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>
#ifdef __AVX2__
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

constexpr int32_t kMagnitude = 0x7fffffff;
constexpr int32_t kMaxKey = std::numeric_limits<int32_t>::max();

struct Share {
  int64_t begin, end;
};

int thread_index() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

int team_size() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

Share my_share(int64_t n) {
  const int64_t team = team_size(), i = thread_index();
  return {n * i / team, n * (i + 1) / team};
}

inline int64_t count_at_least(const int32_t* keys, int64_t n, int32_t t) {
  int32_t count = 0;
  const int32_t below = t - 1;
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; i++) count += keys[i] > below;
  return count;
}

// ---------------------------------------------------------------- abs_topk

struct Guess {  // what the last row teaches the next one
  int32_t threshold = 0;
  double slope = 0;  // key units by which the threshold rises when one entry less is kept
};

// The largest t with count(keys >= t) >= k, for 1 <= k <= n; `n_kept` = count(keys >= t).
int32_t kth_largest(const int32_t* keys, int64_t n, int64_t k, int32_t max_key, Guess& guess, int64_t& n_kept) {
  int32_t lo = 0, hi = max_key + 1;  // invariant: count(>= lo) = n_lo >= k, count(>= hi) = n_hi < k
  int64_t n_lo = n, n_hi = 0;
  if (n_lo == k) {
    n_kept = k;
    return 0;
  }
  int64_t t = guess.threshold;
  bool narrowed_fast = true;
  for (int probe = 0; hi - lo > 1; probe++) {
    if (probe == 1 && guess.slope > 0) {
      // From the count at the guess, one step along the slope; a little beyond, so that the bracket closes from both sides.
      const int64_t off = (t == lo ? n_lo : n_hi) - k;
      t += int64_t((double(off) + (off > 0 ? 0.5 : -0.5)) * guess.slope);
    } else if (probe > 0) {
      if (narrowed_fast) {
        t = lo + int64_t((double(n_lo - k) + 0.5) / double(n_lo - n_hi) * double(hi - lo));
      } else {
        t = lo + (int64_t(hi) - lo) / 2;
      }
    }
    t = std::clamp<int64_t>(t, int64_t(lo) + 1, int64_t(hi) - 1);
    const int64_t before = int64_t(hi) - lo;
    const int64_t count = count_at_least(keys, n, int32_t(t));
    if (count >= k) {
      lo = int32_t(t);
      n_lo = count;
      if (count == k) break;
    } else {
      hi = int32_t(t);
      n_hi = count;
    }
    narrowed_fast = probe < 2 || 2 * (int64_t(hi) - lo) <= before || !narrowed_fast;
  }
  if (n_lo - n_hi > 1 || n_hi > 0) {
    const double slope = double(hi - lo) / double(n_lo - n_hi);
    guess.slope = guess.slope > 0 ? 0.75 * guess.slope + 0.25 * slope : slope;
  }
  guess.threshold = lo;
  n_kept = n_lo;
  return lo;
}

template <class Bits>
inline int32_t load_keys(const Bits* x, int32_t* keys, int64_t n) {
  constexpr int32_t magnitude = std::numeric_limits<std::make_signed_t<Bits>>::max();
  int32_t max_key = 0;
  for (int64_t i = 0; i < n; i++) {
    const int32_t key = int32_t(x[i]) & magnitude;
    keys[i] = key;
    max_key = std::max(max_key, key);
  }
  return max_key;
}

// y = x where keys >= t, else 0; one bit an entry.
template <class Bits>
inline void write_row(const Bits* x, const int32_t* keys, int64_t n, int32_t t, Bits* y, uint8_t* bits) {
  int64_t i = 0;
#ifdef __AVX2__
  const __m256i below = _mm256_set1_epi32(t - 1);
  for (; i + 8 <= n; i += 8) {
    const __m256i kept = _mm256_cmpgt_epi32(_mm256_loadu_si256((const __m256i*)(keys + i)), below);
    bits[i / 8] = uint8_t(_mm256_movemask_ps(_mm256_castsi256_ps(kept)));
    if constexpr (sizeof(Bits) == 4) {
      const __m256i value = _mm256_loadu_si256((const __m256i*)(x + i));
      _mm256_storeu_si256((__m256i*)(y + i), _mm256_and_si256(value, kept));
    } else {
      const __m128i kept16 = _mm_packs_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
      _mm_storeu_si128((__m128i*)(y + i), _mm_and_si128(_mm_loadu_si128((const __m128i*)(x + i)), kept16));
    }
  }
#endif
  for (; i < n; i += 8) {
    uint8_t byte = 0;
    for (int64_t j = i; j < std::min(i + 8, n); j++) {
      const bool kept = keys[j] >= t;
      byte |= uint8_t(kept) << (j - i);
      y[j] = kept ? x[j] : Bits(0);
    }
    bits[i / 8] = byte;
  }
}

template <class Bits>
int64_t abs_topk_rows(const Bits* x, Bits* y, uint8_t* bits, int64_t n_rows, int64_t width, int64_t k, int32_t infinity,
                      int n_threads) {
  int64_t nan_row = -1;
  const int64_t n_bytes = (width + 7) / 8;
  const int team = n_rows * width < 16384 ? 1 : n_threads;
#pragma omp parallel num_threads(team) if (team > 1)
  {
    const Share rows = my_share(n_rows);
    std::unique_ptr<int32_t[]> keys(new int32_t[width]);
    Guess guess;
    for (int64_t row = rows.begin; row < rows.end; row++) {
      const Bits* in = x + row * width;
      Bits* out = y + row * width;
      uint8_t* row_bits = bits + row * n_bytes;
      const int32_t max_key = load_keys(in, keys.get(), width);
      if (max_key > infinity) {
#pragma omp atomic write
        nan_row = row;
        break;
      }
      int64_t n_kept = 0;
      const int32_t t = kth_largest(keys.get(), width, k, max_key, guess, n_kept);
      write_row(in, keys.get(), width, t, out, row_bits);
      for (int64_t i = width - 1; n_kept > k; i--) {  // ties beyond k: the last ones go
        if (keys[i] == t) {
          out[i] = 0;
          row_bits[i / 8] &= uint8_t(~(1u << (i % 8)));
          n_kept--;
        }
      }
    }
  }
  return nan_row;
}

template <class Bits>
void keep_rows(const Bits* x, const uint8_t* bits, Bits* y, int64_t n_rows, int64_t width, int n_threads) {
  const int64_t n_bytes = (width + 7) / 8;
  const int team = n_rows * width < 65536 ? 1 : n_threads;
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static)
  for (int64_t row = 0; row < n_rows; row++) {
    const Bits* in = x + row * width;
    Bits* out = y + row * width;
    const uint8_t* row_bits = bits + row * n_bytes;
    int64_t i = 0;
#ifdef __AVX2__
    const __m256i one_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    for (; i + 8 <= width; i += 8) {
      const __m256i byte = _mm256_set1_epi32(row_bits[i / 8]);
      const __m256i kept = _mm256_cmpeq_epi32(_mm256_and_si256(byte, one_bit), one_bit);
      if constexpr (sizeof(Bits) == 4) {
        const __m256i value = _mm256_loadu_si256((const __m256i*)(in + i));
        _mm256_storeu_si256((__m256i*)(out + i), _mm256_and_si256(value, kept));
      } else {
        const __m128i kept16 = _mm_packs_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
        _mm_storeu_si128((__m128i*)(out + i), _mm_and_si128(_mm_loadu_si128((const __m128i*)(in + i)), kept16));
      }
    }
#endif
    for (; i < width; i++) out[i] = (row_bits[i / 8] >> (i % 8)) & 1 ? in[i] : Bits(0);
  }
}

// ---------------------------------------------------------------- project

constexpr int kHighBits = 11;                 // first histogram: sign-free exponent and three mantissa bits
constexpr int kHighShift = 31 - kHighBits;
constexpr int64_t kSegment = 4096;            // without a floor the tensor is cut into segments that lie in L1
constexpr int64_t kColumns = 16;               // columns whose largest entries are tracked together
constexpr int32_t kFirstMargin = 1 << 19, kLeastMargin = 1 << 13, kMostMargin = 1 << 21;

struct Keys {  // a growing list without zero fills
  int32_t* data = nullptr;
  int64_t size = 0, capacity = 0;
  Keys() = default;
  Keys(const Keys&) = delete;
  Keys(Keys&& other) noexcept : data(other.data), size(other.size), capacity(other.capacity) { other.data = nullptr; }
  ~Keys() { std::free(data); }
  void reserve_more(int64_t n) {
    if (size + n <= capacity) return;
    capacity = std::max(size + n, 2 * capacity);
    data = static_cast<int32_t*>(std::realloc(data, size_t(capacity) * sizeof(int32_t)));
    if (data == nullptr) std::abort();
  }
};

#ifdef __AVX2__
struct CompressTable {  // for every 8-bit mask the permutation that moves its lanes to the front
  alignas(32) int32_t lanes[256][8];
  CompressTable() {
    for (int mask = 0; mask < 256; mask++) {
      int n = 0;
      for (int lane = 0; lane < 8; lane++)
        if (mask >> lane & 1) lanes[mask][n++] = lane;
      while (n < 8) lanes[mask][n++] = 0;
    }
  }
};
const CompressTable kCompress;
#endif

// Appends the keys in [lo, hi] to `inside`; returns how many are above hi.
int64_t scan_window(const int32_t* w, int64_t n, int32_t lo, int32_t hi, Keys& inside) {
  inside.reserve_more(n + 8);
  int32_t* out = inside.data + inside.size;
  int64_t above = 0, i = 0;
#ifdef __AVX2__
  const __m256i magnitude = _mm256_set1_epi32(kMagnitude);
  const __m256i below_lo = _mm256_set1_epi32(lo - 1), top = _mm256_set1_epi32(hi);
  __m256i n_above = _mm256_setzero_si256();
  for (; i + 16 <= n; i += 16) {
    const __m256i a = _mm256_and_si256(_mm256_loadu_si256((const __m256i*)(w + i)), magnitude);
    const __m256i b = _mm256_and_si256(_mm256_loadu_si256((const __m256i*)(w + i + 8)), magnitude);
    const __m256i a_above = _mm256_cmpgt_epi32(a, top), b_above = _mm256_cmpgt_epi32(b, top);
    n_above = _mm256_sub_epi32(n_above, _mm256_add_epi32(a_above, b_above));
    const __m256i a_in = _mm256_andnot_si256(a_above, _mm256_cmpgt_epi32(a, below_lo));
    const __m256i b_in = _mm256_andnot_si256(b_above, _mm256_cmpgt_epi32(b, below_lo));
    if (_mm256_testz_si256(_mm256_or_si256(a_in, b_in), _mm256_or_si256(a_in, b_in))) continue;
    const int a_mask = _mm256_movemask_ps(_mm256_castsi256_ps(a_in));
    const int b_mask = _mm256_movemask_ps(_mm256_castsi256_ps(b_in));
    const __m256i a_order = _mm256_load_si256((const __m256i*)kCompress.lanes[a_mask]);
    const __m256i b_order = _mm256_load_si256((const __m256i*)kCompress.lanes[b_mask]);
    _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(a, a_order));
    out += __builtin_popcount(unsigned(a_mask));
    _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(b, b_order));
    out += __builtin_popcount(unsigned(b_mask));
  }
  alignas(32) int32_t lanes[8];
  _mm256_store_si256((__m256i*)lanes, n_above);
  for (int lane = 0; lane < 8; lane++) above += lanes[lane];
#endif
  for (; i < n; i++) {
    const int32_t key = w[i] & kMagnitude;
    above += key > hi;
    *out = key;
    out += key >= lo && key <= hi;
  }
  inside.size = out - inside.data;
  return above;
}

// Puts `key` into the descending list best[0..j).
inline void insert(int32_t* best, int64_t j, int32_t key) {
  for (int64_t i = j - 1; i >= 0 && best[i] < key; i--) {
    if (i + 1 < j) best[i + 1] = best[i];
    best[i] = key;
  }
}

// The j largest keys of a line, descending; entries that do not exist are -1.
void line_largest(const int32_t* w, int64_t n, int64_t j, int32_t* best) {
  constexpr int64_t block = 32;
  std::fill(best, best + j, -1);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t end = std::min(begin + block, n);
    int32_t largest = 0;
    for (int64_t i = begin; i < end; i++) largest = std::max(largest, w[i] & kMagnitude);
    if (largest <= best[j - 1]) continue;
    for (int64_t i = begin; i < end; i++) {
      const int32_t key = w[i] & kMagnitude;
      if (key > best[j - 1]) insert(best, j, key);
    }
  }
}

// Updates best[i * n + column], descending in i, with the keys of one row of `width` columns.
inline void columns_insert(const int32_t* w, int64_t width, int64_t n, int64_t j, int32_t* best, int32_t mask) {
  const int32_t* last = best + (j - 1) * n;
  int32_t any = 0;
  for (int64_t i = 0; i < width; i++) any |= (w[i] & mask) > last[i] ? -1 : 0;
  if (any == 0) return;
  int32_t carry[kColumns];
  for (int64_t i = 0; i < width; i++) carry[i] = w[i] & mask;
  for (int64_t level = 0; level < j; level++) {
    int32_t* __restrict__ at = best + level * n;
    for (int64_t i = 0; i < width; i++) {
      const int32_t larger = std::max(at[i], carry[i]);
      carry[i] = std::min(at[i], carry[i]);
      at[i] = larger;
    }
  }
}

// Updates the j largest keys of each of n columns with one row of weights, or of keys when the mask is -1 (-1, which
// stands for no entry yet, then stays below every key).
void columns_largest(const int32_t* w, int64_t n, int64_t j, int32_t* best, int32_t mask = kMagnitude) {
  int64_t i = 0;
  for (; i + kColumns <= n; i += kColumns) columns_insert(w + i, kColumns, n, j, best + i, mask);
  for (; i < n; i++) columns_insert(w + i, 1, n, j, best + i, mask);
}

inline void count_above(const int32_t* w, int64_t n, int32_t hi, int32_t* counts) {
  for (int64_t i = 0; i < n; i++) counts[i] += (w[i] & kMagnitude) > hi;
}

// Adds the counts of keys in [lo, lo + (bins << shift)) to `histogram`, `sign` each.
void add_histogram(const int32_t* keys, int64_t n, int32_t lo, int32_t hi, int shift, int64_t sign, int64_t* histogram) {
  for (int64_t i = 0; i < n; i++)
    if (keys[i] >= lo && keys[i] <= hi) histogram[(keys[i] - lo) >> shift] += sign;
}

// The rank-th largest (rank from 1) of the keys in `lists` without those in `without`; all lie in [lo, hi]. `ties_beyond`:
// how many equal keys follow it.
int32_t select_key(const std::vector<Keys>& lists, const Keys& without, int64_t rank, int32_t lo, int32_t hi, int team,
                   int64_t& ties_beyond) {
  constexpr int bits = 11;
  std::vector<std::vector<int64_t>> histograms(lists.size(), std::vector<int64_t>(1 << bits));
  while (lo < hi) {
    int shift = 0;
    while (((int64_t(hi) - lo) >> shift) >= (1 << bits)) shift++;
    for (auto& histogram : histograms) std::fill(histogram.begin(), histogram.end(), 0);
#pragma omp parallel for num_threads(team) if (team > 1) schedule(static, 1)
    for (int64_t i = 0; i < int64_t(lists.size()); i++)
      add_histogram(lists[i].data, lists[i].size, lo, hi, shift, 1, histograms[i].data());
    auto& total = histograms[0];
    for (size_t i = 1; i < histograms.size(); i++)
      for (int bin = 0; bin < 1 << bits; bin++) total[bin] += histograms[i][bin];
    add_histogram(without.data, without.size, lo, hi, shift, -1, total.data());
    int bin = (1 << bits) - 1;
    while (total[bin] < rank) rank -= total[bin--];
    ties_beyond = total[bin] - rank;
    lo += int32_t(bin) << shift;
    hi = int32_t(std::min<int64_t>(hi, int64_t(lo) + (int64_t(1) << shift) - 1));
  }
  return lo;
}

struct Kept {
  int64_t n, ties;
};

// Zeroes, in place, what lies below the threshold.
void zero_below_uncounted(int32_t* w, int64_t n, int32_t t) {
  const int32_t below = t - 1;
  for (int64_t i = 0; i < n; i++) w[i] &= (w[i] & kMagnitude) > below ? -1 : 0;
}

// The same, counting what is kept.
Kept zero_below(int32_t* w, int64_t n, int32_t t) {
  int32_t at_least = 0, above = 0;
  const int32_t below = t - 1;
  for (int64_t i = 0; i < n; i++) {
    const int32_t key = w[i] & kMagnitude;
    const int32_t kept = key > below ? -1 : 0;
    w[i] &= kept;
    at_least -= kept;
    above += key > t;
  }
  return {at_least, at_least - above};
}

// The same with one threshold for each column.
int64_t zero_below_by_column(int32_t* w, int64_t n, const int32_t* t) {
  int32_t at_least = 0;
  for (int64_t i = 0; i < n; i++) {
    const int32_t kept = (w[i] & kMagnitude) >= t[i] ? -1 : 0;
    w[i] &= kept;
    at_least -= kept;
  }
  return at_least;
}

struct Tensor2 {  // one tensor on its way through a projection; keys are read from the weights' bits
  int32_t* w;
  int64_t n_rows, n_cols, k, floor;
  bool by_column;
  int team;

  int64_t n_entries = n_rows * n_cols;
  int64_t segment = floor > 0 ? n_cols : kSegment;
  int64_t n_segments = (n_entries + segment - 1) / segment;
  int64_t n_lines = floor == 0 ? 0 : by_column ? n_cols : n_rows;
  bool floor_rows = floor > 0 && !by_column, floor_columns = floor > 0 && by_column;
  int64_t rank = k - floor * n_lines;  // how many of the rest are kept
  int64_t ties_beyond = 1;             // entries equal to the threshold that must go; 1 stands for not known
  std::vector<int32_t> best;           // the floor-th largest keys of each line: [line][i], by column [i][line]
  std::vector<std::vector<int32_t>> best_of_thread;

  int64_t length(int64_t s) const { return std::min(segment, n_entries - s * segment); }

  void merge_columns() {
    best = best_of_thread[0];
    for (size_t thread = 1; thread < best_of_thread.size(); thread++)
      for (int64_t i = 0; i < floor; i++)
        columns_largest(best_of_thread[thread].data() + i * n_cols, n_cols, floor, best.data(), -1);
  }

  // Fills `best` for the columns with fewer entries above the window than the floor; the others get kMaxKey.
  void find_short_columns(std::vector<std::vector<int32_t>>& above_by_column) {
    std::vector<int32_t>& above = above_by_column[0];
    for (size_t thread = 1; thread < above_by_column.size(); thread++)
      for (int64_t i = 0; i < n_cols; i++) above[i] += above_by_column[thread][i];
    std::vector<int64_t> blocks;  // first columns of blocks that hold a short one
    for (int64_t begin = 0; begin < n_cols; begin += kColumns)
      if (*std::min_element(above.begin() + begin, above.begin() + std::min(begin + kColumns, n_cols)) < floor)
        blocks.push_back(begin);
    best_of_thread.assign(team, std::vector<int32_t>(n_lines * floor, kMaxKey));
#pragma omp parallel num_threads(team) if (team > 1)
    {
      const Share mine = my_share(n_rows);
      int32_t* of_thread = best_of_thread[thread_index()].data();
      for (const int64_t begin : blocks) {
        const int64_t end = std::min(begin + kColumns, n_cols);
        for (int64_t i = 0; i < floor; i++) std::fill(of_thread + i * n_cols + begin, of_thread + i * n_cols + end, -1);
      }
      for (int64_t row = mine.begin; row < mine.end; row++)
        for (const int64_t begin : blocks) {
          const int32_t* at = w + row * n_cols + begin;
          if (begin + kColumns <= n_cols) columns_insert(at, kColumns, n_cols, floor, of_thread + begin, kMagnitude);
          else
            for (int64_t i = 0; i < n_cols - begin; i++)
              columns_insert(at + i, 1, n_cols, floor, of_thread + begin + i, kMagnitude);
        }
    }
    merge_columns();
  }

  // A histogram of the rest's high bits gives the bin [lo, hi] that holds the rank-th largest. Without `know_floor` it is
  // the bin of the k-th largest of all entries: the same one, unless many entries are kept for their line's floor alone.
  void find_window(int32_t& lo, int32_t& hi, bool know_floor) {
    constexpr int n_bins = 1 << kHighBits;
    std::vector<int64_t> total(n_bins);
    const bool rows = floor_rows && know_floor, columns = floor_columns && know_floor;
    if (rows) best.assign(n_lines * floor, -1);
    if (columns) best_of_thread.assign(team, std::vector<int32_t>(n_lines * floor, -1));
#pragma omp parallel num_threads(team) if (team > 1)
    {
      const Share mine = my_share(n_segments);
      std::vector<uint32_t> histogram(4 * n_bins);  // four, so that equal neighbours do not wait for each other
      std::vector<int64_t> sum(n_bins);
      int64_t unflushed = 0;
      const auto flush = [&] {
        for (int i = 0; i < 4 * n_bins; i++) sum[i % n_bins] += histogram[i];
        std::fill(histogram.begin(), histogram.end(), 0);
        unflushed = 0;
      };
      for (int64_t s = mine.begin; s < mine.end; s++) {
        const int32_t* at = w + s * segment;
        const int64_t n = length(s);
        if (unflushed + n > int64_t(1) << 31) flush();
        unflushed += n;
        uint32_t* h = histogram.data();
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) {
          h[(at[i] & kMagnitude) >> kHighShift]++;
          h[n_bins + ((at[i + 1] & kMagnitude) >> kHighShift)]++;
          h[2 * n_bins + ((at[i + 2] & kMagnitude) >> kHighShift)]++;
          h[3 * n_bins + ((at[i + 3] & kMagnitude) >> kHighShift)]++;
        }
        for (; i < n; i++) h[(at[i] & kMagnitude) >> kHighShift]++;
        if (rows) line_largest(at, n, floor, best.data() + s * floor);
        if (columns) columns_largest(at, n, floor, best_of_thread[thread_index()].data());
      }
      flush();
#pragma omp critical
      for (int bin = 0; bin < n_bins; bin++) total[bin] += sum[bin];
    }
    if (columns) merge_columns();
    for (const int32_t key : best) total[key >> kHighShift]--;
    int64_t left = know_floor ? rank : k;
    int bin = n_bins - 1;
    while (total[bin] < left) left -= total[bin--];
    lo = int32_t(bin) << kHighShift;
    hi = lo | ((1 << kHighShift) - 1);
  }

  // The rank-th largest key of the rest, if it lies in [lo, hi]; also fills `best` for the lines that need it.
  bool find_threshold(int32_t lo, int32_t hi, int32_t& t) {
    std::vector<Keys> inside(team);
    const bool know_best = !best.empty();
    if (floor_rows && !know_best) best.assign(n_lines * floor, kMaxKey);
    std::vector<std::vector<int32_t>> above_by_column;
    if (floor_columns && !know_best) above_by_column.assign(team, std::vector<int32_t>(n_cols));
    int64_t above = 0;
#pragma omp parallel num_threads(team) reduction(+ : above) if (team > 1)
    {
      const Share mine = my_share(n_segments);
      for (int64_t s = mine.begin; s < mine.end; s++) {
        const int32_t* at = w + s * segment;
        const int64_t n_above = scan_window(at, length(s), lo, hi, inside[thread_index()]);
        above += n_above;
        if (know_best) continue;
        // A line with enough entries above the window keeps them all: its floor decides nothing.
        if (floor_rows && n_above < floor) line_largest(at, n_cols, floor, best.data() + s * floor);
        if (floor_columns) count_above(at, n_cols, hi, above_by_column[thread_index()].data());
      }
    }
    if (floor_columns && !know_best) find_short_columns(above_by_column);
    Keys forced;
    forced.reserve_more(int64_t(best.size()) + 1);
    for (const int32_t key : best) {
      if (key > hi) above--;
      else if (key >= lo) forced.data[forced.size++] = key;
    }
    int64_t n_inside = -forced.size;
    for (const Keys& list : inside) n_inside += list.size;
    if (rank <= above || rank > above + n_inside) {
      best.clear();  // what was filled holds for this window only
      return false;
    }
    t = select_key(inside, forced, rank - above, lo, hi, team, ties_beyond);
    return true;
  }

  // Zeroes the last `n` entries of a line whose key is t.
  void drop_last(int32_t* line, int64_t length, int64_t stride, int32_t t, int64_t n) const {
    for (int64_t i = length - 1; n > 0; i--) {
      if ((line[i * stride] & kMagnitude) == t) {
        line[i * stride] = 0;
        n--;
      }
    }
  }

  void apply_by_segment(int32_t t) {
    if (floor == 0 && ties_beyond == 0) {  // nothing to count
#pragma omp parallel num_threads(team) if (team > 1)
      {
        const Share mine = my_share(n_entries);
        zero_below_uncounted(w + mine.begin, mine.end - mine.begin, t);
      }
      return;
    }
    std::vector<Kept> kept(n_segments);
    int64_t n_kept = 0;
#pragma omp parallel num_threads(team) reduction(+ : n_kept) if (team > 1)
    {
      const Share mine = my_share(n_segments);
      for (int64_t s = mine.begin; s < mine.end; s++) {
        const int32_t line = floor_rows ? std::min(t, best[(s + 1) * floor - 1]) : t;
        kept[s] = zero_below(w + s * segment, length(s), line);
        n_kept += kept[s].n;
      }
    }
    int64_t excess = n_kept - k;
    for (int64_t s = 0; floor_rows && excess > 0 && s < n_segments; s++) {
      const int32_t line = best[(s + 1) * floor - 1];
      if (line >= t || kept[s].n == floor) continue;
      drop_last(w + s * segment, n_cols, 1, line, kept[s].n - floor);
      excess -= kept[s].n - floor;
    }
    for (int64_t s = n_segments - 1; excess > 0; s--) {
      if (floor_rows && best[(s + 1) * floor - 1] < t) continue;
      const int64_t n = std::min({excess, kept[s].ties, kept[s].n - (floor_rows ? floor : 0)});
      drop_last(w + s * segment, length(s), 1, t, n);
      excess -= n;
    }
  }

  void apply_by_column(int32_t t) {
    const int32_t* line = best.data() + (floor - 1) * n_cols;
    std::vector<int32_t> threshold(n_cols);
    for (int64_t column = 0; column < n_cols; column++) threshold[column] = std::min(t, line[column]);
    int64_t n_kept = 0;
#pragma omp parallel for num_threads(team) reduction(+ : n_kept) if (team > 1) schedule(static)
    for (int64_t row = 0; row < n_rows; row++)
      n_kept += zero_below_by_column(w + row * n_cols, n_cols, threshold.data());
    int64_t excess = n_kept - k;
    if (excess == 0) return;
    std::vector<int64_t> in_column(n_cols);  // kept entries; a kept zero counts where the threshold is zero
    for (int64_t row = 0; row < n_rows; row++)
      for (int64_t column = 0; column < n_cols; column++)
        in_column[column] += (w[row * n_cols + column] & kMagnitude) >= threshold[column];
    for (int64_t column = 0; column < n_cols; column++) {
      if (line[column] >= t || in_column[column] == floor) continue;
      drop_last(w + column, n_rows, n_cols, line[column], in_column[column] - floor);
      excess -= in_column[column] - floor;
    }
    for (int64_t row = n_rows - 1; excess > 0; row--) {
      int32_t* at = w + row * n_cols;
      for (int64_t column = n_cols - 1; column >= 0 && excess > 0; column--) {
        if ((at[column] & kMagnitude) != t || line[column] < t || in_column[column] == floor) continue;
        at[column] = 0;
        in_column[column]--;
        excess--;
      }
    }
  }
};

void project(int32_t* w, int64_t n_rows, int64_t n_cols, int64_t k, int64_t floor, bool by_column, int32_t* state,
             int n_threads) {
  if (k == n_rows * n_cols) return;
  Tensor2 x{w, n_rows, n_cols, k, floor, by_column, n_rows * n_cols < 32768 ? 1 : n_threads};
  int32_t t = kMaxKey;
  if (x.rank == 0) {
    if (floor > 0) {  // the floor takes the whole budget: every line needs its floor-th largest
      int32_t lo = 0, hi = 0;
      x.rank = 1;
      x.find_window(lo, hi, true);
      x.rank = 0;
    }
  } else {
    const int32_t last = state[0], margin = state[1];
    const bool warm = last > 0;
    bool found = warm && x.find_threshold(std::max(last - margin, 0), last + std::min(margin, kMaxKey - 1 - last), t);
    for (const bool know_floor : {false, true}) {
      if (found) break;
      int32_t lo = 0, hi = 0;
      x.find_window(lo, hi, know_floor);
      found = x.find_threshold(lo, hi, t);
    }
    const int64_t moved = std::abs(int64_t(t) - last);
    state[0] = t;
    state[1] = warm ? int32_t(std::clamp<int64_t>(4 * moved, kLeastMargin, kMostMargin)) : kFirstMargin;
  }
  if (x.floor_columns) x.apply_by_column(t);
  else x.apply_by_segment(t);
}

}  // namespace

extern "C" {

// Returns -1, or a row that holds a NaN (y is then unfinished).
int64_t sparsetrain_abs_topk(const void* x, void* y, uint8_t* bits, int64_t n_rows, int64_t width, int64_t k,
                             int32_t element_bytes, int32_t infinity, int32_t n_threads) {
  if (element_bytes == 4)
    return abs_topk_rows((const uint32_t*)x, (uint32_t*)y, bits, n_rows, width, k, infinity, n_threads);
  return abs_topk_rows((const uint16_t*)x, (uint16_t*)y, bits, n_rows, width, k, infinity, n_threads);
}

void sparsetrain_keep(const void* x, const uint8_t* bits, void* y, int64_t n_rows, int64_t width, int32_t element_bytes,
                      int32_t n_threads) {
  if (element_bytes == 4) keep_rows((const uint32_t*)x, bits, (uint32_t*)y, n_rows, width, n_threads);
  else keep_rows((const uint16_t*)x, bits, (uint16_t*)y, n_rows, width, n_threads);
}

void sparsetrain_project(void* w, int64_t n_rows, int64_t n_cols, int64_t k, int64_t floor, int32_t by_column,
                         int32_t* state, int32_t n_threads) {
  project((int32_t*)w, n_rows, n_cols, k, floor, by_column != 0, state, n_threads);
}
}
