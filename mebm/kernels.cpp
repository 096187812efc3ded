// CPU kernels for training, all on images in NHWC layout with a multiple of 16 channels.
//
// winograd: 3x3 convolution, stride 1, zero padding 1, by F(4x4, 3x3): 36 multiplications an output tile take the place of
// nine times sixteen (Lavin and Gray 2016). Tiles are transformed, multiplied and transformed back in blocks that stay in
// a core's second-level cache. Images are float32 or bf16; all arithmetic is float32.
//
// norm_act: BatchNorm with the batch's statistics and LeakyReLU in one, forward and backward, float32 or bf16 images and
// float32 statistics; memory is passed over five times instead of eleven.
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

inline v16 load(const float* p) { return *reinterpret_cast<const v16*>(p); }
inline void store(float* p, v16 v) { *reinterpret_cast<v16*>(p) = v; }
inline v16 load(const uint16_t* p) {  // bf16 is the upper half of a float
    u16 wide = __builtin_convertvector(*reinterpret_cast<const h16*>(p), u16) << 16;
    return (v16)wide;
}
inline void store(uint16_t* p, v16 v) {  // round to nearest, ties to even; a NaN stays one
    u16 bits = (u16)v;
    u16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    u16 nan = (bits >> 16) | 0x40;
    auto is_nan = v != v;
    u16 chosen = (rounded & ~(u16)is_nan) | (nan & (u16)is_nan);
    *reinterpret_cast<h16*>(p) = __builtin_convertvector(chosen, h16);
}
inline v16 all(float f) { return f - v16{}; }

constexpr int ROWS = 12;  // of a register block: 12 tiles times 32 channels

// m[tiles][K] = v[tiles][C] u[C][K]; tiles a multiple of ROWS
template <int VECTORS>
inline void product(const float* v, const float* u, float* m, int tiles, int C, int K) {
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

inline void input_1d(const v16* d, int s, v16* o, int q) {  // B^T d
    v16 d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
    v16 a = d4 - 4.f * d2, b = d3 - 4.f * d1, e = d4 - d2, f = 2.f * (d3 - d1);
    o[0] = 4.f * d0 - 5.f * d2 + d4;
    o[q] = a + b;
    o[2 * q] = a - b;
    o[3 * q] = e + f;
    o[4 * q] = e - f;
    o[5 * q] = 4.f * d1 - 5.f * d3 + d5;
}

inline void output_1d(const v16* m, int s, v16* o, int q) {  // A^T m
    v16 p = m[s] + m[2 * s], n = m[s] - m[2 * s], r = m[3 * s] + m[4 * s], t = m[3 * s] - m[4 * s];
    o[0] = m[0] + p + r;
    o[q] = n + 2.f * t;
    o[2 * q] = p + 4.f * r;
    o[3 * q] = n + 8.f * t + m[5 * s];
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
    Tiles(int N, int H, int W, int C, int K, int bytes) : H(H), W(W), rows((H + 3) / 4), columns((W + 3) / 4) {
        block = std::max(ROWS, bytes / (36 * 4 * (C + K)) / ROWS * ROWS);
        count = (long)N * rows * columns;
        blocks = (count + block - 1) / block;
    }
    int top(long tile) const { return (int)(tile / columns % rows) * 4; }
    int left(long tile) const { return (int)(tile % columns) * 4; }
    long image(long tile) const { return tile / (rows * columns); }
};

// One tile for `gather`; INSIDE: none of its six by six pixels lies outside the image.
template <bool INSIDE, typename T>
inline void gather_tile(const Tiles& s, const T* image, int top, int left, int C, float* v, size_t step) {
    for (int c = 0; c < C; c += L) {
        v16 e[36];
        for (int j = 0; j < 6; j++) {
            v16 d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++)
                d[i] = INSIDE || ((unsigned)(top + i) < (unsigned)s.H && (unsigned)(left + j) < (unsigned)s.W)
                           ? load(image + ((long)(top + i) * s.W + left + j) * C + c)
                           : v16{};
            input_1d(d, 1, e + j, 6);
        }
#pragma GCC unroll 1
        for (int i = 0; i < 6; i++) {
            v16 o[6];
            input_1d(e + i * 6, 1, o, 1);
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) store(v + (i * 6 + j) * step + c, o[j]);
        }
    }
}

// The image around a tile, six by six with zeros outside, transformed, to v + f * step, f = 0..35.
template <typename T>
inline void gather(const Tiles& s, const T* x, int C, long tile, float* v, size_t step) {
    const int top = s.top(tile) - 1, left = s.left(tile) - 1;
    const T* image = x + s.image(tile) * ((size_t)s.H * s.W * C);
    if (top >= 0 && left >= 0 && top + 6 <= s.H && left + 6 <= s.W)
        gather_tile<true>(s, image, top, left, C, v, step);
    else
        gather_tile<false>(s, image, top, left, C, v, step);
}

// Four by four outputs of a tile from m + f * step; cut off where the image ends.
template <bool INSIDE, typename T>
inline void scatter_tile(const Tiles& s, T* image, int top, int left, int K, const float* m, size_t step,
                         const float* bias) {
    for (int k = 0; k < K; k += L) {
        v16 e[24];
#pragma GCC unroll 1
        for (int j = 0; j < 6; j++) {
            v16 d[6];
#pragma GCC unroll 6
            for (int i = 0; i < 6; i++) d[i] = load(m + (i * 6 + j) * step + k);
            output_1d(d, 1, e + j, 6);
        }
        const v16 add = bias ? load(bias + k) : v16{};
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++) {
            v16 o[4];
            output_1d(e + i * 6, 1, o, 1);
            if (!INSIDE && top + i >= s.H) break;
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++)
                if (INSIDE || left + j < s.W) store(image + ((size_t)(top + i) * s.W + left + j) * K + k, o[j] + add);
        }
    }
}

template <typename T>
int convolve(const T* x, const float* u, const float* bias, T* y, int N, int H, int W, int C, int K, int threads) {
    const Tiles s(N, H, W, C, K, 393216);
    const size_t step_v = (size_t)s.block * C + L, step_m = (size_t)s.block * K + L;  // off the powers of two
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float* v = static_cast<float*>(std::aligned_alloc(64, (36 * (step_v + step_m) * 4 + 63) / 64 * 64));
        float* m = v ? v + 36 * step_v : nullptr;
        if (!v) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(static)
        for (long b = 0; b < s.blocks; b++) {
            if (!v) continue;
            const long first = b * s.block;
            const int here = (int)std::min<long>(s.block, s.count - first);
            const int padded = (here + ROWS - 1) / ROWS * ROWS;
            for (int t = 0; t < here; t++) gather(s, x, C, first + t, v + (size_t)t * C, step_v);
            for (int f = 0; f < 36; f++)
                std::memset(v + f * step_v + (size_t)here * C, 0, (size_t)(padded - here) * C * 4);
            for (int f = 0; f < 36; f++) {
                const float* uf = u + (size_t)f * C * K;
                int k = 0;
                for (; k + 2 * L <= K; k += 2 * L) product<2>(v + f * step_v, uf + k, m + f * step_m + k, padded, C, K);
                for (; k < K; k += L) product<1>(v + f * step_v, uf + k, m + f * step_m + k, padded, C, K);
            }
            for (int t = 0; t < here; t++) {
                const int top = s.top(first + t), left = s.left(first + t);
                T* image = y + s.image(first + t) * ((size_t)H * W * K);
                if (top + 4 <= H && left + 4 <= W)
                    scatter_tile<true>(s, image, top, left, K, m + (size_t)t * K, step_m, bias);
                else
                    scatter_tile<false>(s, image, top, left, K, m + (size_t)t * K, step_m, bias);
            }
        }
        std::free(v);
    }
    return failed;
}

inline void output_1d_back(const v16* g, int s, v16* o, int q) {  // A g
    v16 even = g[0] + g[2 * s], odd = g[s] + g[3 * s];
    v16 even2 = g[0] + 4.f * g[2 * s], odd2 = 2.f * g[s] + 8.f * g[3 * s];
    o[0] = g[0];
    o[q] = even + odd;
    o[2 * q] = even - odd;
    o[3 * q] = even2 + odd2;
    o[4 * q] = even2 - odd2;
    o[5 * q] = g[3 * s];
}

// u[C][K] += v[tiles][C]^T m[tiles][K], for VECTORS times 16 columns and 8 rows of u at a time
template <int VECTORS>
inline void outer_product(const float* v, const float* m, float* u, int tiles, int C, int K) {
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

template <typename T>
int weight_gradient(const T* x, const T* dy, float* du, double* db, int N, int H, int W, int C, int K, int threads) {
    const Tiles s(N, H, W, C, K, 1048576);
    const size_t step_v = (size_t)s.block * C + L, step_m = (size_t)s.block * K + L, size = (size_t)36 * C * K;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float* v = static_cast<float*>(std::aligned_alloc(64, (36 * (step_v + step_m) * 4 + 63) / 64 * 64));
        float *m = v ? v + 36 * step_v : nullptr, *own = du + omp_get_thread_num() * size;
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
            for (int t = 0; t < here; t++) {
                gather(s, x, C, first + t, v + (size_t)t * C, step_v);
                const int top = s.top(first + t), left = s.left(first + t);
                const T* image = dy + s.image(first + t) * ((size_t)H * W * K);
                for (int k = 0; k < K; k += L) {
                    v16 d[16], e[24], o[36];
                    for (int i = 0; i < 4; i++)
                        for (int j = 0; j < 4; j++)
                            d[i * 4 + j] = top + i < H && left + j < W
                                               ? load(image + ((size_t)(top + i) * W + left + j) * K + k)
                                               : v16{};
                    v16 sum = {};
                    for (int i = 0; i < 4; i++)
                        sum += (d[i * 4] + d[i * 4 + 1]) + (d[i * 4 + 2] + d[i * 4 + 3]);
                    store(&part[k], load(&part[k]) + sum);
                    for (int j = 0; j < 4; j++) output_1d_back(d + j, 4, e + j, 4);
                    for (int i = 0; i < 6; i++) output_1d_back(e + i * 4, 1, o + i * 6, 1);
                    for (int f = 0; f < 36; f++) store(m + f * step_m + (size_t)t * K + k, o[f]);
                }
            }
            for (int k = 0; k < K; k++) bias[k] += part[k];
            for (int f = 0; f < 36; f++) {
                float* uf = own + (size_t)f * C * K;
                int k = 0;
                for (; k + 2 * L <= K; k += 2 * L)
                    outer_product<2>(v + f * step_v, m + f * step_m + k, uf + k, here, C, K);
                for (; k < K; k += L) outer_product<1>(v + f * step_v, m + f * step_m + k, uf + k, here, C, K);
            }
        }
        std::free(v);
    }
    return failed;
}

}  // namespace

extern "C" {

// y[N][H][W][K] = x[N][H][W][C] convolved with the filters whose transforms are u[36][C][K], plus bias[K] unless it is null.
int winograd_float(const float* x, const float* u, const float* bias, float* y, int N, int H, int W, int C, int K,
                   int threads) {
    return convolve(x, u, bias, y, N, H, W, C, K, threads);
}

int winograd_bf16(const uint16_t* x, const float* u, const float* bias, uint16_t* y, int N, int H, int W, int C, int K,
                  int threads) {
    return convolve(x, u, bias, y, N, H, W, C, K, threads);
}

// du[threads][36][C][K], db[threads][K]: each thread's part of the gradients to the transformed filters and to the bias,
// zero before.
int winograd_weight_float(const float* x, const float* dy, float* du, double* db, int N, int H, int W, int C, int K,
                          int threads) {
    return weight_gradient(x, dy, du, db, N, H, W, C, K, threads);
}

int winograd_weight_bf16(const uint16_t* x, const uint16_t* dy, float* du, double* db, int N, int H, int W, int C,
                         int K, int threads) {
    return weight_gradient(x, dy, du, db, N, H, W, C, K, threads);
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
