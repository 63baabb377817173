// Kernels of a step over few tokens, where a GPU waits for its memory: every weight is read once, and
// what stands between two products is part of one of them.

#include "parts.cuh"

namespace {

// The inputs of a product in shared memory: the lower and the upper four of each eight apart, so that
// the lanes of a warp, which read eight each, meet different banks.
struct Inputs {
    float *low, *high;
    int eights;
};

// Reads `tokens` rows of `x`, at most N, normalized (Zhang and Sennrich 2019, eq. 4) where there is a
// norm; what is left of the N repeats the last.
template <int N>
__device__ Inputs stage(const float *x, int tokens, const float *norm, float eps, int cols,
                        float *shared) {
    __shared__ float sums[N * WARPS];
    const int eights = cols / 8;
    Inputs in = {shared, shared + N * eights * 4, eights};
    float squares[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
        squares[n] = 0.0f;
        for (int g = threadIdx.x; g < eights; g += THREADS) {
            const size_t row = min(n, tokens - 1);
            const float4 *from = reinterpret_cast<const float4 *>(x + row * cols) + 2 * g;
            const float4 a = from[0], b = from[1];
            reinterpret_cast<float4 *>(in.low)[n * eights + g] = a;
            reinterpret_cast<float4 *>(in.high)[n * eights + g] = b;
            squares[n] += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
            squares[n] += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
        }
    }
    if (norm != nullptr) {
        block_sum<N>(squares, sums);
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const float factor = rsqrtf(squares[n] / cols + eps);
            // Each thread meets what it wrote itself.
            for (int g = threadIdx.x; g < eights; g += THREADS) {
                const float4 *w = reinterpret_cast<const float4 *>(norm) + 2 * g;
                const float4 wa = w[0], wb = w[1];
                float4 &a = reinterpret_cast<float4 *>(in.low)[n * eights + g];
                float4 &b = reinterpret_cast<float4 *>(in.high)[n * eights + g];
                a.x *= factor * wa.x, a.y *= factor * wa.y, a.z *= factor * wa.z, a.w *= factor * wa.w;
                b.x *= factor * wb.x, b.y *= factor * wb.y, b.z *= factor * wb.z, b.w *= factor * wb.w;
            }
        }
    }
    __syncthreads();
    return in;
}

// How many eights of a row each lane has asked for before it needs the first.
template <typename W, int R> struct InFlight {
    static constexpr int V = (sizeof(W) == 2 ? 4 : 2) / R;
};

// R rows of weights of which a warp's lanes hold the first eights.
template <typename W, int R> struct Rows {
    static constexpr int V = InFlight<W, R>::V;
    const W *row[R];
    Eight<W> held[R][V];

    __device__ __forceinline__ void fetch(int base, int eights) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const int g = base + v * WARP + lane;
                if (g < eights) {
                    held[r][v].stream(row[r] + (size_t)g * 8);
                } else {
                    held[r][v].clear();
                }
            }
        }
    }

    // Dot products with N inputs, complete in every lane. `fetch(0, ..)` came before.
    template <int N> __device__ __forceinline__ void dot(const Inputs &in, float (&sum)[R][N]) {
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int n = 0; n < N; ++n) sum[r][n] = 0.0f;
        }
        for (int base = 0; base < in.eights; base += V * WARP) {
            Rows next = *this;
            if (base + V * WARP < in.eights) next.fetch(base + V * WARP, in.eights);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const int g = base + v * WARP + lane;
                if (g >= in.eights) break;
                float w[R][8];
#pragma unroll
                for (int r = 0; r < R; ++r) held[r][v].values(w[r]);
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    const float4 a = reinterpret_cast<const float4 *>(in.low)[n * in.eights + g];
                    const float4 b = reinterpret_cast<const float4 *>(in.high)[n * in.eights + g];
#pragma unroll
                    for (int r = 0; r < R; ++r) {
                        float s = sum[r][n];
                        s = fmaf(w[r][0], a.x, s), s = fmaf(w[r][1], a.y, s);
                        s = fmaf(w[r][2], a.z, s), s = fmaf(w[r][3], a.w, s);
                        s = fmaf(w[r][4], b.x, s), s = fmaf(w[r][5], b.y, s);
                        s = fmaf(w[r][6], b.z, s), s = fmaf(w[r][7], b.w, s);
                        sum[r][n] = s;
                    }
                }
            }
            *this = next;
        }
#pragma unroll
        for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int n = 0; n < N; ++n) sum[r][n] = warp_sum(sum[r][n]);
        }
    }
};

// The value with index n of an array that must stay in registers.
template <int N> __device__ __forceinline__ float at(const float (&x)[N], int n) {
    float out = x[0];
#pragma unroll
    for (int i = 1; i < N; ++i) out = n == i ? x[i] : out;
    return out;
}

// Up to three matrices over the same input, row after row.
template <typename W> struct Matrices {
    const W *weight[3];
    const float *bias[3];
    int rows[3];

    __device__ __forceinline__ const W *row(int r, int cols) const {
        if (r < rows[0]) return weight[0] + (size_t)r * cols;
        r -= rows[0];
        if (r < rows[1]) return weight[1] + (size_t)r * cols;
        return weight[2] + (size_t)(r - rows[1]) * cols;
    }
    __device__ __forceinline__ float bias_of(int r) const {
        const float *b = bias[0];
        if (r >= rows[0]) {
            r -= rows[0];
            b = bias[1];
            if (r >= rows[1]) {
                r -= rows[1];
                b = bias[2];
            }
        }
        return b == nullptr ? 0.0f : b[r];
    }
};

// y[n, r] = w[r] · norm(x[n]) + bias[r] (+ add[n, r])
template <typename W, int N>
__device__ void project(const float *x, int tokens, const float *norm, float eps,
                        const Matrices<W> &m, const float *add, float *y, int cols) {
    extern __shared__ float shared[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int total = m.rows[0] + m.rows[1] + m.rows[2], stride = gridDim.x * WARPS;
    int r = blockIdx.x * WARPS + warp;
    Rows<W, 1> rows;
    if (r < total) {
        rows.row[0] = m.row(r, cols);
        rows.fetch(0, cols / 8);
    }
    let_next_start();
    wait_for_previous();
    const Inputs in = stage<N>(x, tokens, norm, eps, cols, shared);
    while (r < total) {
        float sum[1][N];
        rows.template dot<N>(in, sum);
        const int done = r;
        r += stride;
        if (r < total) {
            rows.row[0] = m.row(r, cols);
            rows.fetch(0, cols / 8);
        }
        if (lane < tokens) {
            const size_t to = (size_t)lane * total + done;
            const float value = at<N>(sum[0], lane) + m.bias_of(done);
            y[to] = add == nullptr ? value : value + add[to];
        }
    }
}

// y[n, r] = act(gate[r] · norm(x[n]) + ..) · (up[r] · norm(x[n]) + ..)
template <typename W, int N>
__device__ void gate(const float *x, int tokens, const float *norm, float eps, const W *gate_weight,
                     const W *up_weight, const float *gate_bias, const float *up_bias, int total,
                     int activation, float *y, int cols) {
    extern __shared__ float shared[];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int stride = gridDim.x * WARPS;
    int r = blockIdx.x * WARPS + warp;
    Rows<W, 2> rows;
    if (r < total) {
        rows.row[0] = gate_weight + (size_t)r * cols;
        rows.row[1] = up_weight + (size_t)r * cols;
        rows.fetch(0, cols / 8);
    }
    let_next_start();
    wait_for_previous();
    const Inputs in = stage<N>(x, tokens, norm, eps, cols, shared);
    while (r < total) {
        float sum[2][N];
        rows.template dot<N>(in, sum);
        const int done = r;
        r += stride;
        if (r < total) {
            rows.row[0] = gate_weight + (size_t)r * cols;
            rows.row[1] = up_weight + (size_t)r * cols;
            rows.fetch(0, cols / 8);
        }
        if (lane < tokens) {
            float g = at<N>(sum[0], lane), u = at<N>(sum[1], lane);
            if (gate_bias != nullptr) g += gate_bias[done];
            if (up_bias != nullptr) u += up_bias[done];
            y[(size_t)lane * total + done] = activate(activation, g) * u;
        }
    }
}

// Where the keys and values of some tokens are kept, `[K, capacity, D]` each: token t at position
// `first[t / run] + t % run`.
constexpr int PLACES = 8;
struct Places {
    unsigned long long keys[PLACES], values[PLACES];
    int capacity[PLACES], first[PLACES];
    int run;
};

// Rotates the queries in place (arXiv:2104.09864, eq. 34, on half-split pairs) and writes rotated keys
// and the values into a cache; a warp has one head of one token.
template <typename T>
__device__ void rotate(float *q, const float *k, const float *v, int q_stride, int k_stride,
                       int v_stride, const float *q_norm, const float *k_norm, float eps,
                       const float *cos, const float *sin, int rotary, const Places &places,
                       int tokens, int heads, int kv_heads, int dim) {
    let_next_start();
    wait_for_previous();
    const int lane = threadIdx.x % WARP;
    const int item = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    const int per_token = heads + 2 * kv_heads;
    if (item >= tokens * per_token) return;
    const int t = item / per_token, half = rotary / 2;
    int head = item % per_token;
    const int of = t / places.run, capacity = places.capacity[of];
    T *keys = reinterpret_cast<T *>(places.keys[of]);
    T *values = reinterpret_cast<T *>(places.values[of]);
    const size_t place = (size_t)(places.first[of] + t % places.run) * dim;
    if (head >= heads + kv_heads) {
        head -= heads + kv_heads;
        const float *from = v + (size_t)t * v_stride + (size_t)head * dim;
        T *to = values + (size_t)head * capacity * dim + place;
        for (int d = lane; d < dim; d += WARP) store(to + d, from[d]);
        return;
    }
    const bool is_query = head < heads;
    if (!is_query) head -= heads;
    float *query = q + (size_t)t * q_stride + (size_t)head * dim;
    const float *from = is_query ? query : k + (size_t)t * k_stride + (size_t)head * dim;
    T *to = keys + (size_t)head * capacity * dim + place;
    const float *weight = is_query ? q_norm : k_norm;
    float factor = 1.0f;
    if (weight != nullptr) {
        float squares = 0.0f;
        for (int d = lane; d < dim; d += WARP) squares += from[d] * from[d];
        factor = rsqrtf(warp_sum(squares) / dim + eps);
    }
    auto value = [&](int d) { return weight == nullptr ? from[d] : from[d] * factor * weight[d]; };
    auto put = [&](int d, float y) {
        if (is_query) {
            query[d] = y;
        } else {
            store(to + d, y);
        }
    };
    for (int i = lane; i < half; i += WARP) {
        const float c = cos[(size_t)t * half + i], s = sin[(size_t)t * half + i];
        const float a = value(i), b = value(i + half);
        put(i, a * c - b * s);
        put(i + half, b * c + a * s);
    }
    for (int d = rotary + lane; d < dim; d += WARP) put(d, value(d));
}

// One token's queries of one kv head over a part of its keys. The last block that is done with a part
// puts the parts together.
template <typename T, typename U>
__device__ void attend(const float *q, int q_stride, const Places &places, U *out,
                       float *partial, unsigned *arrived, int heads, int kv_heads, int dim,
                       int window, float scale, float softcap, int part) {
    extern __shared__ float shared[];
    let_next_start();
    wait_for_previous();
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int t = blockIdx.z, kv_head = blockIdx.y, index = blockIdx.x, most_parts = gridDim.x;
    const int of = t / places.run, capacity = places.capacity[of];
    const T *keys = reinterpret_cast<const T *>(places.keys[of]);
    const T *values = reinterpret_cast<const T *>(places.values[of]);
    const int end = places.first[of] + t % places.run + 1, begin = window > 0 && end > window ? end - window : 0;
    const int parts = (end - begin + part - 1) / part;
    if (index >= parts) return;
    const int from = begin + index * part, count = min(part, end - from), group = heads / kv_heads;
    float *queries = shared;                 // [group, dim]
    float *scores = queries + group * dim;   // [group, part]
    float *totals = scores + group * part;   // [group, 2]: largest score, sum
    const T *k = keys + ((size_t)kv_head * capacity + from) * dim;
    const T *v = values + ((size_t)kv_head * capacity + from) * dim;
    const float *mine = q + (size_t)t * q_stride + (size_t)kv_head * group * dim;
    for (int i = threadIdx.x; i < group * dim; i += THREADS) queries[i] = mine[i] * scale;
    __syncthreads();

    // Eight lanes to a key, four keys to a warp.
    const int lane8 = lane % 8, slot = warp * 4 + lane / 8, eights = dim / 8;
    for (int base = 0; base < count; base += WARPS * 4) {
        const int key = base + slot;
        const bool valid = key < count;
        for (int g = 0; g < group; ++g) {
            float sum = 0.0f;
            if (valid) {
                for (int e = lane8; e < eights; e += 8) {
                    Eight<T> words;
                    words.load(k + (size_t)key * dim + e * 8);
                    float w[8];
                    words.values(w);
                    const float *x = queries + g * dim + e * 8;
#pragma unroll
                    for (int i = 0; i < 8; ++i) sum = fmaf(w[i], x[i], sum);
                }
            }
#pragma unroll
            for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
            if (valid && lane8 == 0) {
                scores[g * part + key] = softcap > 0.0f ? softcap * tanhf(sum / softcap) : sum;
            }
        }
    }
    __syncthreads();
    for (int g = warp; g < group; g += WARPS) {
        float most = -INFINITY, sum = 0.0f;
        for (int key = lane; key < count; key += WARP) most = fmaxf(most, scores[g * part + key]);
        most = warp_max(most);
        for (int key = lane; key < count; key += WARP) {
            const float weight = __expf(scores[g * part + key] - most);
            scores[g * part + key] = weight;
            sum += weight;
        }
        sum = warp_sum(sum);
        if (lane == 0) totals[2 * g] = most, totals[2 * g + 1] = sum;
    }
    __syncthreads();
    const int pairs = dim / 2;
    U *result = out + ((size_t)t * heads + (size_t)kv_head * group) * dim;
    // [T, H, parts, D + 2]
    float *kept = partial + ((size_t)t * heads + (size_t)kv_head * group) * most_parts * (dim + 2);
    for (int i = threadIdx.x; i < group * pairs; i += THREADS) {
        const int g = i / pairs, d = i % pairs * 2;
        float2 sum = make_float2(0.0f, 0.0f);
#pragma unroll 8
        for (int key = 0; key < count; ++key) {
            const float2 x = two(v + (size_t)key * dim + d);
            const float weight = scores[g * part + key];
            sum.x = fmaf(weight, x.x, sum.x), sum.y = fmaf(weight, x.y, sum.y);
        }
        if (parts == 1) {
            const float inverse = 1.0f / totals[2 * g + 1];
            store(result + g * dim + d, sum.x * inverse);
            store(result + g * dim + d + 1, sum.y * inverse);
        } else {
            float *to = kept + ((size_t)g * most_parts + index) * (dim + 2);
            to[d] = sum.x, to[d + 1] = sum.y;
        }
    }
    if (parts == 1) return;
    for (int g = threadIdx.x; g < group; g += THREADS) {
        float *to = kept + ((size_t)g * most_parts + index) * (dim + 2) + dim;
        to[0] = totals[2 * g], to[1] = totals[2 * g + 1];
    }
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned *counter = arrived + t * kv_heads + kv_head;
        is_last = atomicAdd(counter, 1u) == (unsigned)parts - 1;
        if (is_last) *counter = 0;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    for (int i = threadIdx.x; i < group * dim; i += THREADS) {
        const int g = i / dim, d = i % dim;
        const float *of = kept + (size_t)g * most_parts * (dim + 2);
        float most = -INFINITY, sum = 0.0f, total = 0.0f;
        for (int p = 0; p < parts; ++p) most = fmaxf(most, __ldcg(of + (size_t)p * (dim + 2) + dim));
        for (int p = 0; p < parts; ++p) {
            const float *one = of + (size_t)p * (dim + 2);
            const float weight = __expf(__ldcg(one + dim) - most);
            sum = fmaf(weight, __ldcg(one + d), sum);
            total = fmaf(weight, __ldcg(one + dim + 1), total);
        }
        store(result + i, sum / total);
    }
}

} // namespace

#define PROJECT(NAME, W, N)                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                         \
        const float *x, int tokens, const float *norm, float eps, const W *w0, const W *w1,             \
        const W *w2, const float *b0, const float *b1, const float *b2, int r0, int r1, int r2, const float *add,    \
        float *y, int cols) {                                                                           \
        project<W, N>(x, tokens, norm, eps, Matrices<W>{{w0, w1, w2}, {b0, b1, b2}, {r0, r1, r2}}, add, y,      \
                      cols);                                                                            \
    }

#define GATE(NAME, W, N)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                               \
        NAME(const float *x, int tokens, const float *norm, float eps, const W *gate_weight,            \
             const W *up_weight, const float *gate_bias, const float *up_bias, int rows,                \
             int activation, float *y, int cols) {                                                      \
        gate<W, N>(x, tokens, norm, eps, gate_weight, up_weight, gate_bias, up_bias, rows, activation,  \
                   y, cols);                                                                            \
    }

#define FOR_TOKENS(W, SUFFIX)                                                                           \
    PROJECT(project_##SUFFIX##_1, W, 1)                                                                 \
    PROJECT(project_##SUFFIX##_2, W, 2)                                                                 \
    PROJECT(project_##SUFFIX##_4, W, 4)                                                                 \
    PROJECT(project_##SUFFIX##_8, W, 8)                                                                 \
    GATE(gate_##SUFFIX##_1, W, 1)                                                                       \
    GATE(gate_##SUFFIX##_2, W, 2)                                                                       \
    GATE(gate_##SUFFIX##_4, W, 4)                                                                       \
    GATE(gate_##SUFFIX##_8, W, 8)

FOR_TOKENS(__nv_bfloat16, bf16)
FOR_TOKENS(float, f32)

#define CACHE(T, SUFFIX)                                                                                \
    extern "C" __global__ void rotate_##SUFFIX(                                                         \
        float *q, const float *k, const float *v, int q_stride, int k_stride, int v_stride,             \
        const float *q_norm, const float *k_norm, float eps, const float *cos, const float *sin,        \
        int rotary, const __grid_constant__ Places places, int tokens, int heads, int kv_heads,         \
        int dim) {                                                                                      \
        rotate<T>(q, k, v, q_stride, k_stride, v_stride, q_norm, k_norm, eps, cos, sin, rotary, places, \
                  tokens, heads, kv_heads, dim);                                                        \
    }

CACHE(__nv_bfloat16, bf16)
CACHE(float, f32)

#define ATTEND(NAME, T, U)                                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS)                                               \
        NAME(const float *q, int q_stride, const __grid_constant__ Places places, U *out,               \
             float *partial, unsigned *arrived, int heads, int kv_heads, int dim, int window,           \
             float scale, float softcap, int part) {                                                    \
        attend<T, U>(q, q_stride, places, out, partial, arrived, heads, kv_heads, dim, window, scale,   \
                     softcap, part);                                                                    \
    }

ATTEND(attend_bf16_bf16, __nv_bfloat16, __nv_bfloat16)
ATTEND(attend_bf16_f32, __nv_bfloat16, float)
ATTEND(attend_f32_f32, float, float)
