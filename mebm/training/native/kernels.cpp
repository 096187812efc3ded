// CPU kernels for training, all on images in NHWC layout with a multiple of 16 channels.
//
// winograd: 3x3 convolution, stride 1, zero padding 1, by F(4x4, 3x3): 36 multiplications an output tile take the place of
// nine times sixteen (Lavin and Gray 2016). Tiles are transformed, multiplied and transformed back in blocks that stay in
// a core's second-level cache. Images are float32 or bf16; sums and transforms are float32. With bf16 images products are
// of 16 bits where the processor has them, at twice the rate: see Integer and Pairs.
//
// norm_act: BatchNorm with the batch's statistics and LeakyReLU in one, forward and backward, float32 or bf16 images and
// float32 statistics; memory is passed over five times instead of eleven.
#if defined(__AVX512VNNI__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace {

constexpr int L = 16;  // lanes
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t h16 __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(4), may_alias));

typedef int32_t w16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32 __attribute__((aligned(2), may_alias));

inline v16 load(const float* p) { return *reinterpret_cast<const v16*>(p); }
inline void store(float* p, v16 v) { *reinterpret_cast<v16*>(p) = v; }
inline v16 load(const uint16_t* p) {  // bf16 is the upper half of a float
    u16 wide = __builtin_convertvector(*reinterpret_cast<const h16*>(p), u16) << 16;
    return (v16)wide;
}
inline void store(uint16_t* p, v16 v) {  // round to nearest, ties to even; a NaN stays one
#ifdef __AVX512BF16__
    *reinterpret_cast<h16*>(p) = (h16)_mm512_cvtneps_pbh((__m512)v);  // but takes what is below 1e-38 for 0
#else
    u16 bits = (u16)v;
    u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u16 nan = (bits >> 16) | 0x40;
    auto is_nan = v != v;
    u16 chosen = (rounded & ~(u16)is_nan) | (nan & (u16)is_nan);
    *reinterpret_cast<h16*>(p) = __builtin_convertvector(chosen, h16);
#endif
}
inline v16 all(float f) { return f - v16{}; }

constexpr int ROWS = 12;  // of a register block: 12 tiles times 32 channels

// Interpolation points 0, a, -a, b, -b and infinity; the taps of b are divided by s behind the product.
struct Integers {
    static constexpr float a = 1, b = 2, s = 1;
};
struct Fractions {  // round-off grows a fifth as much as with integers
    static constexpr float a = 11 / 16.f, b = 3 / 2.f, s = 2;
};

template <typename P>
inline void input_1d(const v16* d, int s, v16* o, int q) {  // B^T d
    constexpr float a = P::a, b = P::b, aa = a * a, bb = b * b;
    v16 d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
    v16 even = d4 - bb * d2, odd = a * (d3 - bb * d1), even2 = d4 - aa * d2, odd2 = b * (d3 - aa * d1);
    o[0] = aa * bb * d0 - (aa + bb) * d2 + d4;
    o[q] = even + odd;
    o[2 * q] = even - odd;
    o[3 * q] = even2 + odd2;
    o[4 * q] = even2 - odd2;
    o[5 * q] = aa * bb * d1 - (aa + bb) * d3 + d5;
}

template <typename P>
inline void output_1d(const v16* m, int s, v16* o, int q) {  // A^T m
    constexpr float a = P::a, b = P::b, f = 1 / P::s;
    v16 p = m[s] + m[2 * s], n = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], t = m[3 * s] - m[4 * s];
    o[0] = m[0] + p + f * r;
    o[q] = a * n + f * b * t;
    o[2 * q] = a * a * p + f * b * b * r;
    o[3 * q] = a * a * a * n + f * b * b * b * t + m[5 * s];
}

template <typename P>
inline void output_1d_back(const v16* g, int s, v16* o, int q) {  // A g
    constexpr float a = P::a, b = P::b, f = 1 / P::s;
    v16 even = g[0] + a * a * g[2 * s], odd = a * g[s] + a * a * a * g[3 * s];
    v16 even2 = f * g[0] + f * b * b * g[2 * s], odd2 = f * b * g[s] + f * b * b * b * g[3 * s];
    o[0] = g[0];
    o[q] = even + odd;
    o[2 * q] = even - odd;
    o[3 * q] = even2 + odd2;
    o[4 * q] = even2 - odd2;
    o[5 * q] = g[3 * s];
}

// Sums of two values a row and lane, over rows start to end, added to s and q; add(row, s, q) adds those of one row.
template <typename Add>
inline void sum_rows(long start, long end, double* s, double* q, Add add) {
    v16 a[4] = {}, b[4] = {};
    long i = start;
    for (; i + 4 <= end; i += 4)
        for (int j = 0; j < 4; j++) add(i + j, a[j], b[j]);
    for (; i < end; i++) add(i, a[0], b[0]);
    const v16 u = (a[0] + a[1]) + (a[2] + a[3]), w = (b[0] + b[1]) + (b[2] + b[3]);
    for (int j = 0; j < L; j++) {
        s[j] += u[j];
        q[j] += w[j];
    }
}

// The sums s[C] and q[C] of channel c over threads, each of which has them one behind the other.
inline std::pair<double, double> over_threads(const std::vector<double>& sums, int threads, int C, int c) {
    double s = 0, q = 0;
    for (int t = 0; t < threads; t++) {
        s += sums[(size_t)t * 2 * C + c];
        q += sums[(size_t)t * 2 * C + C + c];
    }
    return {s, q};
}

template <typename T>
void forward(const T* x, T* y, const float* gamma, const float* beta, float* running_mean, float* running_var,
             float* mean, float* invstd, long rows, int C, float momentum, float eps, float slope, int threads) {
    std::vector<double> sums((size_t)threads * 2 * C, 0.0);  // the system may grant fewer threads
    std::vector<float> scale(C), shift(C), first(C);
    for (int c = 0; c < C; c += L) store(&first[c], load(x + c));  // sums of differences from it lose no digits
#pragma omp parallel num_threads(threads)
    {
        const int id = omp_get_thread_num(), granted = omp_get_num_threads();
        const long from = rows * id / granted, to = rows * (id + 1) / granted;
        double* total = &sums[(size_t)id * 2 * C];
        for (long start = from; start < to; start += 256)
            for (int c = 0; c < C; c += L) {
                v16 origin = load(&first[c]);
                sum_rows(start, std::min(to, start + 256), total + c, total + C + c, [&](long row, v16& s, v16& q) {
                    v16 d = load(x + row * C + c) - origin;
                    s += d;
                    q += d * d;
                });
            }
#pragma omp barrier
#pragma omp single
        for (int c = 0; c < C; c++) {
            const auto [s, q] = over_threads(sums, threads, C, c);
            double offset = s / rows, variance = std::max(q / rows - offset * offset, 0.0);
            if (std::isnan(q)) variance = q;
            mean[c] = (float)(offset + first[c]);
            invstd[c] = (float)(1.0 / std::sqrt(variance + eps));
            scale[c] = gamma[c] * invstd[c];
            shift[c] = beta[c] - mean[c] * scale[c];
            running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean[c];
            running_var[c] = (1 - momentum) * running_var[c] + momentum * (float)(variance * rows / std::max(rows - 1, 1L));
        }
        for (long i = from; i < to; i++)
            for (int c = 0; c < C; c += L) {
                v16 z = load(x + i * C + c) * load(&scale[c]) + load(&shift[c]);
                store(y + i * C + c, z > 0 ? z : slope * z);
            }
    }
}

template <typename T>
void backward(const T* x, const T* dy, T* dx, const float* gamma, const float* beta, const float* mean,
              const float* invstd, float* dgamma, float* dbeta, long rows, int C, float slope, int threads) {
    std::vector<double> sums((size_t)threads * 2 * C, 0.0);
    std::vector<float> scale(C), shift(C), a(C), b(C);
    for (int c = 0; c < C; c++) {
        scale[c] = gamma[c] * invstd[c];
        shift[c] = beta[c] - mean[c] * scale[c];
    }
#pragma omp parallel num_threads(threads)
    {
        const int id = omp_get_thread_num(), granted = omp_get_num_threads();
        const long from = rows * id / granted, to = rows * (id + 1) / granted;
        double* total = &sums[(size_t)id * 2 * C];
        for (long start = from; start < to; start += 256)
            for (int c = 0; c < C; c += L) {
                v16 k = load(&scale[c]), h = load(&shift[c]), m = load(mean + c);
                sum_rows(start, std::min(to, start + 256), total + c, total + C + c, [&](long row, v16& s, v16& q) {
                    v16 in = load(x + row * C + c), z = in * k + h, g = load(dy + row * C + c);
                    g = z > 0 ? g : slope * g;
                    s += g;
                    q += g * (in - m);
                });
            }
#pragma omp barrier
#pragma omp single
        for (int c = 0; c < C; c++) {
            const auto [s, q] = over_threads(sums, threads, C, c);
            dbeta[c] = (float)s;
            dgamma[c] = (float)(q * invstd[c]);
            // dx = scale (g - mean g - xhat mean(g xhat)) = scale g + a x + b
            double per = scale[c] * (q * invstd[c] / rows) * invstd[c];
            a[c] = (float)-per;
            b[c] = (float)(per * mean[c] - scale[c] * s / rows);
        }
        for (long i = from; i < to; i++)
            for (int c = 0; c < C; c += L) {
                v16 k = load(&scale[c]), in = load(x + i * C + c), z = in * k + load(&shift[c]);
                v16 g = load(dy + i * C + c);
                g = z > 0 ? g : slope * g;
                store(dx + i * C + c, k * g + (load(&a[c]) * in + load(&b[c])));
            }
    }
}

struct Tiles {  // of images [N][H][W]: four by four outputs each, in blocks that fit a cache
    int H, W, rows, columns, block;
    long count, blocks;
    Tiles(int N, int H, int W, int bytes_a_tile, int bytes) : H(H), W(W), rows((H + 3) / 4), columns((W + 3) / 4) {
        block = std::max(ROWS, bytes / bytes_a_tile / ROWS * ROWS);
        count = (long)N * rows * columns;
        blocks = (count + block - 1) / block;
    }
    int top(long tile) const { return (int)(tile / columns % rows) * 4; }
    int left(long tile) const { return (int)(tile % columns) * 4; }
    long image(long tile) const { return tile / (rows * columns); }
};

// The six by six pixels around a tile, zero outside the image.
template <typename T>
struct Window {
    const T* corner;
    int top, left, H, W, C;
    bool inside;
    Window(const Tiles& s, const T* x, int C, long tile) : top(s.top(tile) - 1), left(s.left(tile) - 1), H(s.H), W(s.W), C(C) {
        corner = x + ((s.image(tile) * H + top) * (long)W + left) * C;
        inside = top >= 0 && left >= 0 && top + 6 <= H && left + 6 <= W;
    }
    bool has(int i, int j) const { return (unsigned)(top + i) < (unsigned)H && (unsigned)(left + j) < (unsigned)W; }
    const T* at(int i, int j) const { return corner + ((long)i * W + j) * C; }

    // Columns of channels c to c + 16, transformed.
    template <typename P>
    void columns(int c, v16* e) const {
        inside ? columns<P, true>(c, e) : columns<P, false>(c, e);
    }
    template <typename P, bool INSIDE>
    inline void columns(int c, v16* e) const {
        for (int j = 0; j < 6; j++) {
            v16 d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) d[i] = INSIDE || has(i, j) ? load(at(i, j) + c) : v16{};
            input_1d<P>(d, 1, e + j, 6);
        }
    }
};

// Values and products of the transformed domain. Float: float32.
template <typename P>
struct Float {
    using Value = float;
    using Points = P;
    static constexpr bool SCALED = false;
    static constexpr int BYTES = 393216;  // of a block

    template <typename T>
    static float scale(const Window<T>&) {
        return 1;
    }
    static void put(float* p, v16 v, float) { store(p, v); }

    // m[tiles][K] = v[tiles][C] u[C][K]; tiles a multiple of ROWS
    template <int VECTORS>
    static inline void product(const float* v, const float* u, float* m, int tiles, int C, int K) {
        for (int t = 0; t < tiles; t += ROWS) {
            v16 sum[ROWS][VECTORS] = {};
            for (int c = 0; c < C; c++) {
                v16 b[VECTORS];
                for (int j = 0; j < VECTORS; j++) b[j] = load(u + (size_t)c * K + j * L);
#pragma GCC unroll 12
                for (int r = 0; r < ROWS; r++) {
                    v16 a = all(v[(size_t)(t + r) * C + c]);
                    for (int j = 0; j < VECTORS; j++) sum[r][j] += a * b[j];
                }
            }
            for (int r = 0; r < ROWS; r++)
                for (int j = 0; j < VECTORS; j++) store(m + (size_t)(t + r) * K + j * L, sum[r][j]);
        }
    }
};

#ifdef __AVX512VNNI__
// Integers of 16 bits and their exact sums in 32. bf16 has 8 bits, of which the method loses four; an integer has 15 under
// the bound of a tile, which has its own scale. Filters are scaled so that no sum of CHUNK channels can overflow.
struct Integer {
    using Value = int16_t;
    using Points = Fractions;
    static constexpr bool SCALED = true;
    static constexpr int BYTES = 600000;
    static constexpr int CHUNK = 128;
    static constexpr float LARGEST = 32700;

    // What an integer of this tile is worth: no transformed value exceeds `bound` times the largest pixel.
    static float scale(const Window<uint16_t>& window) {
        constexpr float a = Points::a, b = Points::b, row = (1 + a) * (1 + b * b), bound = row * row;
        typedef uint16_t whole __attribute__((vector_size(32)));
        whole most = {};
        for (int i = 0; i < 6; i++)
            for (int j = 0; j < 6; j++)
                for (int c = 0; c < window.C && (window.inside || window.has(i, j)); c += L) {
                    whole bits = *reinterpret_cast<const h16*>(window.at(i, j) + c) & 0x7fff;  // ordered as numbers are
                    most = bits > most ? bits : most;
                }
        uint32_t largest = 0;
        for (int j = 0; j < L; j++) largest = std::max<uint32_t>(largest, most[j]);
        largest <<= 16;
        float value;
        std::memcpy(&value, &largest, 4);
        return std::max(value, 1e-30f) * (bound / LARGEST);
    }
    static void put(int16_t* p, v16 v, float per) {
        __m512i whole = _mm512_cvtps_epi32((__m512)(v * per));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(whole));
    }

    static inline w16 multiply_add(w16 sum, w16 a, w16 b) {
        return (w16)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
    }

    // As for Float; u[C / 2][K][2]
    template <int VECTORS>
    static inline void product(const int16_t* v, const int16_t* u, float* m, int tiles, int C, int K) {
        for (int start = 0; start < C; start += CHUNK)
            for (int t = 0; t < tiles; t += ROWS)
                chunk<VECTORS>(v + (size_t)t * C + start, u + (size_t)start * K, m + (size_t)t * K, C, K,
                               std::min(C - start, CHUNK), start > 0);
    }
    template <int VECTORS>
    static inline void chunk(const int16_t* v, const int16_t* u, float* m, int C, int K, int channels, bool more) {
        w16 sum[ROWS][VECTORS] = {};
        for (int c = 0; c < channels; c += 2) {
            w16 b[VECTORS];
            for (int j = 0; j < VECTORS; j++) b[j] = *reinterpret_cast<const w16*>(u + (size_t)c * K + 2 * j * L);
#pragma GCC unroll 12
            for (int r = 0; r < ROWS; r++) {
                const w16 a = *reinterpret_cast<const i32*>(v + (size_t)r * C + c) - w16{};
                for (int j = 0; j < VECTORS; j++) sum[r][j] = multiply_add(sum[r][j], a, b[j]);
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < VECTORS; j++) {
                v16 part = __builtin_convertvector(sum[r][j], v16);
                float* to = m + (size_t)r * K + j * L;
                store(to, more ? load(to) + part : part);
            }
    }
};
using Narrow = Integer;
#else
using Narrow = Float<Fractions>;
#endif

// The window of a tile, transformed, to v + f * step, f = 0..35. Returns what its values are to be multiplied by.
template <typename A, typename T>
inline float gather(const Tiles& s, const T* x, int C, long tile, typename A::Value* v, size_t step) {
    const Window<T> window(s, x, C, tile);
    const float scale = A::scale(window), per = 1 / scale;
    for (int c = 0; c < C; c += L) {
        v16 e[36];
        window.template columns<typename A::Points>(c, e);
#pragma GCC unroll 1
        for (int i = 0; i < 6; i++) {
            v16 o[6];
            input_1d<typename A::Points>(e + i * 6, 1, o, 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) A::put(v + (i * 6 + j) * step + c, o[j], per);
        }
    }
    return scale;
}

// Four by four outputs of a tile from m + f * step; cut off where the image ends.
template <typename A, bool INSIDE, typename T>
inline void scatter_tile(const Tiles& s, T* image, int top, int left, int K, const float* m, size_t step, float scale,
                         const float* scales, const float* bias) {
    for (int k = 0; k < K; k += L) {
        v16 e[24];
#pragma GCC unroll 1
        for (int j = 0; j < 6; j++) {
            v16 d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) d[i] = load(m + (i * 6 + j) * step + k);
            output_1d<typename A::Points>(d, 1, e + j, 6);
        }
        const v16 add = bias ? load(bias + k) : v16{}, by = A::SCALED ? scale * load(scales + k) : v16{};
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            v16 o[4];
            output_1d<typename A::Points>(e + i * 6, 1, o, 1);
            if (!INSIDE && top + i >= s.H) break;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                if (INSIDE || left + j < s.W)
                    store(image + ((size_t)(top + i) * s.W + left + j) * K + k, (A::SCALED ? o[j] * by : o[j]) + add);
        }
    }
}

template <typename A, typename T>
int convolve(const T* x, const void* filters, const float* scales, const float* bias, T* y, int N, int H, int W, int C,
             int K, int threads) {
    using Value = typename A::Value;
    const Tiles s(N, H, W, 36 * (sizeof(Value) * C + 4 * K), A::BYTES);
    const size_t step_v = (size_t)s.block * C + L, step_m = (size_t)s.block * K + L;  // off the powers of two
    const size_t bytes_v = (36 * step_v * sizeof(Value) + 63) / 64 * 64, bytes_m = 36 * step_m * 4;
    const Value* u = static_cast<const Value*>(filters);
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        char* memory = static_cast<char*>(std::aligned_alloc(64, (bytes_v + bytes_m + 63) / 64 * 64));
        Value* v = reinterpret_cast<Value*>(memory);
        float* m = reinterpret_cast<float*>(memory + bytes_v);
        std::vector<float> scale(s.block);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long b = 0; b < s.blocks; b++) {
            if (!memory) continue;
            const long first = b * s.block;
            const int here = (int)std::min<long>(s.block, s.count - first);
            const int padded = (here + ROWS - 1) / ROWS * ROWS;
            for (int t = 0; t < here; t++) scale[t] = gather<A>(s, x, C, first + t, v + (size_t)t * C, step_v);
            for (int f = 0; f < 36; f++)
                std::memset(v + f * step_v + (size_t)here * C, 0, (size_t)(padded - here) * C * sizeof(Value));
            for (int f = 0; f < 36; f++) {
                const Value* uf = u + (size_t)f * C * K;
                const int pair = sizeof(float) / sizeof(Value);  // 16-bit channels come two and two
                int k = 0;
                for (; k + 2 * L <= K; k += 2 * L)
                    A::template product<2>(v + f * step_v, uf + pair * k, m + f * step_m + k, padded, C, K);
                for (; k < K; k += L)
                    A::template product<1>(v + f * step_v, uf + pair * k, m + f * step_m + k, padded, C, K);
            }
            for (int t = 0; t < here; t++) {
                const int top = s.top(first + t), left = s.left(first + t);
                T* image = y + s.image(first + t) * ((size_t)H * W * K);
                const float* mt = m + (size_t)t * K;
                if (top + 4 <= H && left + 4 <= W)
                    scatter_tile<A, true>(s, image, top, left, K, mt, step_m, scale[t], scales, bias);
                else
                    scatter_tile<A, false>(s, image, top, left, K, mt, step_m, scale[t], scales, bias);
            }
        }
        std::free(memory);
    }
    return failed;
}

// How products of weight gradients are summed over tiles. Singles: one by one, in float32.
template <typename P>
struct Singles {
    using Value = float;
    using Points = P;
    static constexpr int GROUP = 1;

    static void put(float* p, v16 v, v16) { store(p, v); }

    // u[C][K] += v[tiles][C]^T m[tiles][K], for VECTORS times 16 columns and 8 rows of u at a time
    template <int VECTORS>
    static inline void outer_product(const float* v, const float* m, float* u, int tiles, int C, int K) {
        for (int c = 0; c < C; c += 8) {
            v16 sum[8][VECTORS];
            for (int r = 0; r < 8; r++)
                for (int j = 0; j < VECTORS; j++) sum[r][j] = load(u + (size_t)(c + r) * K + j * L);
            for (int t = 0; t < tiles; t++) {
                v16 b[VECTORS];
                for (int j = 0; j < VECTORS; j++) b[j] = load(m + (size_t)t * K + j * L);
#pragma GCC unroll 8
                for (int r = 0; r < 8; r++) {
                    v16 a = all(v[(size_t)t * C + c + r]);
                    for (int j = 0; j < VECTORS; j++) sum[r][j] += a * b[j];
                }
            }
            for (int r = 0; r < 8; r++)
                for (int j = 0; j < VECTORS; j++) store(u + (size_t)(c + r) * K + j * L, sum[r][j]);
        }
    }
};

#ifdef __AVX512BF16__
// Pairs of tiles, rounded to bf16; sums are float32. Over thousands of tiles rounding averages out.
struct Pairs {
    using Value = uint16_t;
    using Points = Fractions;
    static constexpr int GROUP = 2;

    static void put(uint16_t* p, v16 first, v16 second) {
        u16 low = __builtin_convertvector((h16)_mm512_cvtneps_pbh((__m512)first), u16);
        u16 high = __builtin_convertvector((h16)_mm512_cvtneps_pbh((__m512)second), u16);
        *reinterpret_cast<u16*>(p) = low | high << 16;
    }
    static inline v16 multiply_add(v16 sum, w16 a, w16 b) {
        return (v16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }

    // As for Singles; v[tiles / 2][C][2], m[tiles / 2][K][2]
    template <int VECTORS>
    static inline void outer_product(const uint16_t* v, const uint16_t* m, float* u, int tiles, int C, int K) {
        for (int c = 0; c < C; c += 8) {
            v16 sum[8][VECTORS];
            for (int r = 0; r < 8; r++)
                for (int j = 0; j < VECTORS; j++) sum[r][j] = load(u + (size_t)(c + r) * K + j * L);
            for (int t = 0; t < tiles; t += 2) {
                w16 b[VECTORS];
                for (int j = 0; j < VECTORS; j++) b[j] = *reinterpret_cast<const w16*>(m + (size_t)t * K + 2 * j * L);
#pragma GCC unroll 8
                for (int r = 0; r < 8; r++) {
                    const w16 a = *reinterpret_cast<const i32*>(v + (size_t)t * C + 2 * (c + r)) - w16{};
                    for (int j = 0; j < VECTORS; j++) sum[r][j] = multiply_add(sum[r][j], a, b[j]);
                }
            }
            for (int r = 0; r < 8; r++)
                for (int j = 0; j < VECTORS; j++) store(u + (size_t)(c + r) * K + j * L, sum[r][j]);
        }
    }
};
using NarrowSums = Pairs;
#else
using NarrowSums = Singles<Fractions>;
#endif

// Windows of `here` tiles of a group, transformed, to v + f * step; zero for those of the group that lie behind.
template <typename A, typename T>
inline void gather_group(const Tiles& s, const T* x, int C, long tile, int here, typename A::Value* v, size_t step) {
    using P = typename A::Points;
    const Window<T> windows[2] = {{s, x, C, tile}, {s, x, C, tile + here - 1}};
    for (int c = 0; c < C; c += L) {
        v16 e[A::GROUP][36];
        windows[0].template columns<P>(c, e[0]);
        if (A::GROUP == 2 && here == 2) windows[1].template columns<P>(c, e[A::GROUP - 1]);
        if (here < A::GROUP) std::fill_n(e[A::GROUP - 1], 36, v16{});
#pragma GCC unroll 1
        for (int i = 0; i < 6; i++) {
            v16 o[A::GROUP][6];
            for (int g = 0; g < A::GROUP; g++) input_1d<P>(e[g] + i * 6, 1, o[g], 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) A::put(v + (i * 6 + j) * step + A::GROUP * c, o[0][j], o[A::GROUP - 1][j]);
        }
    }
}

// The same for tiles of gradients to the result, whose sums are added to total[K].
template <typename A, typename T>
inline void gather_results(const Tiles& s, const T* dy, int K, long tile, int here, typename A::Value* m, size_t step,
                           float* total) {
    using P = typename A::Points;
    for (int k = 0; k < K; k += L) {
        v16 e[A::GROUP][24], sum = {};
        for (int g = 0; g < A::GROUP; g++) {
            const int top = s.top(tile + g), left = s.left(tile + g);
            const T* image = dy + s.image(tile + g) * ((size_t)s.H * s.W * K);
            v16 d[16];
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++)
                    d[i * 4 + j] = g < here && top + i < s.H && left + j < s.W
                                       ? load(image + ((size_t)(top + i) * s.W + left + j) * K + k)
                                       : v16{};
            for (int i = 0; i < 4; i++) sum += (d[i * 4] + d[i * 4 + 1]) + (d[i * 4 + 2] + d[i * 4 + 3]);
            for (int j = 0; j < 4; j++) output_1d_back<P>(d + j, 4, e[g] + j, 4);
        }
        store(total + k, load(total + k) + sum);
#pragma GCC unroll 1
        for (int i = 0; i < 6; i++) {
            v16 o[A::GROUP][6];
            for (int g = 0; g < A::GROUP; g++) output_1d_back<P>(e[g] + i * 4, 1, o[g], 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) A::put(m + (i * 6 + j) * step + A::GROUP * k, o[0][j], o[A::GROUP - 1][j]);
        }
    }
}

template <typename A, typename T>
int weight_gradient(const T* x, const T* dy, float* du, double* db, int N, int H, int W, int C, int K, int threads) {
    using Value = typename A::Value;
    const Tiles s(N, H, W, 36 * sizeof(Value) * (C + K), 1048576);
    const size_t step_v = (size_t)s.block * C + L, step_m = (size_t)s.block * K + L, size = (size_t)36 * C * K;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        const size_t bytes = (36 * (step_v + step_m) * sizeof(Value) + 63) / 64 * 64;
        Value* v = static_cast<Value*>(std::aligned_alloc(64, bytes));
        Value* m = v ? v + 36 * step_v : nullptr;
        float* own = du + omp_get_thread_num() * size;
        if (!v) {
#pragma omp atomic write
            failed = 1;
        }
        double* bias = db + (size_t)omp_get_thread_num() * K;
        std::vector<float> part(K);  // of a block: few enough values to add in float32
#pragma omp for schedule(static)
        for (long b = 0; b < s.blocks; b++) {
            if (!v) continue;
            const long first = b * s.block;
            const int here = (int)std::min<long>(s.block, s.count - first);
            std::fill(part.begin(), part.end(), 0.f);
            for (int t = 0; t < here; t += A::GROUP) {
                const int group = std::min(A::GROUP, here - t);
                gather_group<A>(s, x, C, first + t, group, v + (size_t)t * C, step_v);
                gather_results<A>(s, dy, K, first + t, group, m + (size_t)t * K, step_m, part.data());
            }
            for (int k = 0; k < K; k++) bias[k] += part[k];
            for (int f = 0; f < 36; f++) {
                const Value *vf = v + f * step_v, *mf = m + f * step_m;
                float* uf = own + (size_t)f * C * K;
                int k = 0;
                for (; k + 2 * L <= K; k += 2 * L)
                    A::template outer_product<2>(vf, mf + A::GROUP * k, uf + k, here, C, K);
                for (; k < K; k += L) A::template outer_product<1>(vf, mf + A::GROUP * k, uf + k, here, C, K);
            }
        }
        std::free(v);
    }
    return failed;
}

}  // namespace

extern "C" {

// Whether filters for bf16 images are int16[36][C / 2][K][2], with scales[K], rather than float[36][C][K].
int integer_filters() { return Narrow::SCALED; }

// y[N][H][W][K] = x[N][H][W][C] convolved with the filters whose transforms are u[36][C][K], plus bias[K] unless it is null.
int winograd_float(const float* x, const void* u, const float* scales, const float* bias, float* y, int N, int H, int W,
                   int C, int K, int threads) {
    return convolve<Float<Integers>>(x, u, scales, bias, y, N, H, W, C, K, threads);
}

int winograd_bf16(const uint16_t* x, const void* u, const float* scales, const float* bias, uint16_t* y, int N, int H,
                  int W, int C, int K, int threads) {
    return convolve<Narrow>(x, u, scales, bias, y, N, H, W, C, K, threads);
}

// du[threads][36][C][K], db[threads][K]: each thread's part of the gradients to the transformed filters and to the bias,
// zero before.
int winograd_weight_float(const float* x, const float* dy, float* du, double* db, int N, int H, int W, int C, int K,
                          int threads) {
    return weight_gradient<Singles<Integers>>(x, dy, du, db, N, H, W, C, K, threads);
}

int winograd_weight_bf16(const uint16_t* x, const uint16_t* dy, float* du, double* db, int N, int H, int W, int C,
                         int K, int threads) {
    return weight_gradient<NarrowSums>(x, dy, du, db, N, H, W, C, K, threads);
}

void norm_act_float(const float* x, float* y, const float* gamma, const float* beta, float* running_mean,
                    float* running_var, float* mean, float* invstd, long rows, int C, float momentum, float eps,
                    float slope, int threads) {
    forward(x, y, gamma, beta, running_mean, running_var, mean, invstd, rows, C, momentum, eps, slope, threads);
}

void norm_act_bf16(const uint16_t* x, uint16_t* y, const float* gamma, const float* beta, float* running_mean,
                   float* running_var, float* mean, float* invstd, long rows, int C, float momentum, float eps,
                   float slope, int threads) {
    forward(x, y, gamma, beta, running_mean, running_var, mean, invstd, rows, C, momentum, eps, slope, threads);
}

void norm_act_back_float(const float* x, const float* dy, float* dx, const float* gamma, const float* beta,
                         const float* mean, const float* invstd, float* dgamma, float* dbeta, long rows, int C,
                         float slope, int threads) {
    backward(x, dy, dx, gamma, beta, mean, invstd, dgamma, dbeta, rows, C, slope, threads);
}

void norm_act_back_bf16(const uint16_t* x, const uint16_t* dy, uint16_t* dx, const float* gamma, const float* beta,
                        const float* mean, const float* invstd, float* dgamma, float* dbeta, long rows, int C,
                        float slope, int threads) {
    backward(x, dy, dx, gamma, beta, mean, invstd, dgamma, dbeta, rows, C, slope, threads);
}
}
