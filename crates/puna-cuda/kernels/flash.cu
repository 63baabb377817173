// Attention over whole rows in training (Dao 2023, arXiv:2307.08691): scores live in registers, and
// products are those of tensor cores on bfloat16 with sums in float32. Gradients are summed in one order,
// without atomics: those of keys and values by a block per tile of keys, those of queries by a block per
// tile of queries.

#include "parts.cuh"

namespace {

using bf16 = __nv_bfloat16;

constexpr int TILE = 64;          // Rows of a tile in shared memory: queries or keys.
constexpr int TEAM = 128;         // Threads of a block: four warps of 16 rows each.
constexpr int STEP = 16;          // Inner dimension of a product.

// What a call is.
struct Shape {
    int len;        // Tokens of a row (T).
    int heads;      // Query heads (H).
    int kv_heads;   // Key and value heads (K).
    int window;     // Keys that a query sees at most; 0: all.
    float scale;    // Factor of the products.
    float softcap;  // cap tanh(score / cap); 0: none.
};

// A tile's rows are padded by 16 bytes: eight rows of a fragment lie in different banks.
template <int D> constexpr int STRIDE = D + 8;
template <int D> constexpr int TILE_VALUES = TILE * STRIDE<D>;

// Rows `first..first + TILE` of a head, zero from row `end` on.
template <int D> __device__ void load_tile(bf16 *to, const bf16 *from, size_t width, int first, int end) {
    constexpr int PIECES = D / 8;
    for (int i = threadIdx.x; i < TILE * PIECES; i += TEAM) {
        const int row = i / PIECES, piece = i % PIECES * 8;
        uint4 words = make_uint4(0, 0, 0, 0);
        if (first + row < end) {
            words = *reinterpret_cast<const uint4 *>(from + (size_t)(first + row) * width + piece);
        }
        *reinterpret_cast<uint4 *>(to + row * STRIDE<D> + piece) = words;
    }
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const bf16 *from) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(from);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const bf16 *from) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(from);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

// The left operand: 16 rows from `row`, 16 columns from `col`.
template <int D>
__device__ __forceinline__ void left(uint32_t (&to)[4], const bf16 *tile, int row, int col) {
    const int lane = threadIdx.x % WARP;
    load_matrices(to, tile + (row + lane % 16) * STRIDE<D> + col + lane / 16 * 8);
}

// The right operand of `A Bᵀ` for 16 columns of the result, which are rows of the tile from `row`: two
// pairs, of eight columns each.
template <int D>
__device__ __forceinline__ void right_of_rows(uint32_t (&to)[4], const bf16 *tile, int row, int col) {
    const int lane = threadIdx.x % WARP;
    load_matrices(to, tile + (row + lane / 16 * 8 + lane % 8) * STRIDE<D> + col + lane / 8 % 2 * 8);
}

// The right operand of `A B` for 16 columns of the result from `col`; the tile's rows from `row` are the
// inner dimension.
template <int D>
__device__ __forceinline__ void right(uint32_t (&to)[4], const bf16 *tile, int row, int col) {
    const int lane = threadIdx.x % WARP;
    load_transposed(to, tile + (row + lane % 16) * STRIDE<D> + col + lane / 16 * 8);
}

__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

// Two results of eight columns as the left operand of a product over these 16.
__device__ __forceinline__ void as_left(uint32_t (&to)[4], const float (&a)[4], const float (&b)[4]) {
    to[0] = pack(a[0], a[1]), to[1] = pack(a[2], a[3]);
    to[2] = pack(b[0], b[1]), to[3] = pack(b[2], b[3]);
}

// sums = A Bᵀ: 16 rows of `a` from `row`, N rows of `b`.
template <int D, int N>
__device__ __forceinline__ void products(float (&sums)[N / 8][4], const bf16 *a, int row, const bf16 *b) {
#pragma unroll
    for (int n = 0; n < N / 8; ++n) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D; k += STEP) {
        uint32_t x[4], y[4];
        left<D>(x, a, row, k);
#pragma unroll
        for (int n = 0; n < N / 16; ++n) {
            right_of_rows<D>(y, b, 16 * n, k);
            multiply(sums[2 * n], x, y[0], y[1]);
            multiply(sums[2 * n + 1], x, y[2], y[3]);
        }
    }
}

// sums += P B for P `[16, N]` as results have it, B the first N rows of a tile.
template <int D, int N>
__device__ __forceinline__ void add_products(float (&sums)[D / 8][4], const float (&p)[N / 8][4],
                                             const bf16 *b) {
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
        uint32_t x[4], y[4];
        as_left(x, p[2 * k], p[2 * k + 1]);
#pragma unroll
        for (int d = 0; d < D / 16; ++d) {
            right<D>(y, b, 16 * k, 16 * d);
            multiply(sums[2 * d], x, y[0], y[1]);
            multiply(sums[2 * d + 1], x, y[2], y[3]);
        }
    }
}

__device__ __forceinline__ float transformed(const Shape &shape, float product) {
    const float score = product * shape.scale;
    return shape.softcap > 0.0f ? shape.softcap * tanhf(score / shape.softcap) : score;
}

// The first key that a query of a row sees.
__device__ __forceinline__ int first_seen(const Shape &shape, const unsigned *visible_from, int query) {
    const int from = visible_from[query];
    return shape.window > 0 ? max(from, query + 1 - shape.window) : from;
}

// The largest, and the sum, over the four threads that have a row of a result.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Attends with a tile of queries of a head. `logs` `[N, H]` gets the logarithms of the softmax's sums.
template <int D>
__device__ void forward(const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *visible_from,
                        bf16 *out, float *logs, const Shape &shape) {
    extern __shared__ uint4 memory[];
    bf16 *queries = reinterpret_cast<bf16 *>(memory), *keys = queries + TILE_VALUES<D>,
         *values = keys + TILE_VALUES<D>;
    const int first = blockIdx.x * TILE, head = blockIdx.y, len = shape.len;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    const int kv_head = head / (shape.heads / shape.kv_heads);
    k += row * kv_width + kv_head * D, v += row * kv_width + kv_head * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    load_tile<D>(queries, q + row * width + head * D, width, first, len);
    // The two queries of which this thread has results.
    int query[2], seen[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        query[r] = first + own + lane / 4 + 8 * r;
        seen[r] = query[r] < len ? first_seen(shape, visible_from, query[r]) : len;
    }
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f}, sums[D / 8][4] = {};
    const int begin = first_seen(shape, visible_from, first) / TILE * TILE;
    for (int at = begin; at < min(first + TILE, len); at += TILE) {
        __syncthreads();
        load_tile<D>(keys, k, kv_width, at, len);
        load_tile<D>(values, v, kv_width, at, len);
        __syncthreads();
        float scores[TILE / 8][4];
        products<D, TILE>(scores, queries, own, keys);
        float highest[2] = {most[0], most[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = i / 2, key = at + 8 * n + lane % 4 * 2 + i % 2;
                const bool visible = key <= query[r] && key >= seen[r];
                scores[n][i] = visible ? transformed(shape, scores[n][i]) : -INFINITY;
                highest[r] = fmaxf(highest[r], scores[n][i]);
            }
        }
        float base[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            highest[r] = row_max(highest[r]);
            // A row that has seen nothing yet.
            base[r] = highest[r] == -INFINITY ? 0.0f : highest[r];
            const float factor = __expf(most[r] - base[r]);
            most[r] = highest[r];
            total[r] *= factor;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) sums[d][2 * r] *= factor, sums[d][2 * r + 1] *= factor;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[n][i] = __expf(scores[n][i] - base[i / 2]);
                total[i / 2] += scores[n][i];
            }
        }
        add_products<D, TILE>(sums, scores, values);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] = row_sum(total[r]);
        if (query[r] >= len) continue;
        const size_t token = row + query[r];
        if (lane % 4 == 0) logs[token * shape.heads + head] = most[r] + logf(total[r]);
        const float inverse = 1.0f / total[r];
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<uint32_t *>(out + token * width + head * D + 8 * d + lane % 4 * 2) =
                pack(sums[d][2 * r] * inverse, sums[d][2 * r + 1] * inverse);
        }
    }
}

// The weight of a score, and the factor from its gradient to that of the product it was made of.
__device__ __forceinline__ float2 weight(const Shape &shape, float product, float log, bool visible) {
    if (!visible) return make_float2(0.0f, 0.0f);
    const float score = transformed(shape, product);
    const float capped = shape.softcap > 0.0f ? score / shape.softcap : 0.0f;
    return make_float2(__expf(score - log), shape.scale * (1.0f - capped * capped));
}

// dv += Pᵀ dO and dk += dSᵀ Q for a tile of keys of a head, over all queries that see any of them; Q of
// them at a time. `sums` `[N, H]` are the rows' sums of dO O.
template <int D, int Q>
__device__ void backward_keys(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *d_out,
                              const float *logs, const float *sums, const unsigned *visible_from,
                              float *dk, float *dv, const Shape &shape) {
    extern __shared__ uint4 memory[];
    bf16 *keys = reinterpret_cast<bf16 *>(memory), *values = keys + TILE_VALUES<D>,
         *queries = values + TILE_VALUES<D>, *d_outs = queries + TILE_VALUES<D>;
    __shared__ float log_of[Q], sum_of[Q];
    __shared__ int seen_of[Q];
    const int first = blockIdx.x * TILE, kv_head = blockIdx.y, len = shape.len;
    const int group = shape.heads / shape.kv_heads;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    load_tile<D>(keys, k + row * kv_width + kv_head * D, kv_width, first, len);
    load_tile<D>(values, v + row * kv_width + kv_head * D, kv_width, first, len);
    float d_keys[D / 8][4] = {}, d_values[D / 8][4] = {};
    const int last = min(first + TILE, len) - 1;
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int at = first; at < len; at += Q) {
            // What a query sees begins no earlier than what the query before it sees.
            if (first_seen(shape, visible_from, at) > last) break;
            __syncthreads();
            const int end = min(at + Q, len);
            load_tile<D>(queries, q + row * width + head * D, width, at, end);
            load_tile<D>(d_outs, d_out + row * width + head * D, width, at, end);
            if (threadIdx.x < Q) {
                const int query = at + threadIdx.x;
                const bool exists = query < len;
                const size_t place = (row + query) * shape.heads + head;
                log_of[threadIdx.x] = exists ? logs[place] : 0.0f;
                sum_of[threadIdx.x] = exists ? sums[place] : 0.0f;
                seen_of[threadIdx.x] = exists ? first_seen(shape, visible_from, query) : len;
            }
            __syncthreads();
            float weights[Q / 8][4], gradients[Q / 8][4]; // Keys by queries.
            products<D, Q>(weights, keys, own, queries);
            products<D, Q>(gradients, values, own, d_outs);
#pragma unroll
            for (int n = 0; n < Q / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int key = first + own + lane / 4 + 8 * (i / 2);
                    const int place = 8 * n + lane % 4 * 2 + i % 2;
                    const bool visible = key <= at + place && key >= seen_of[place];
                    const float2 p = weight(shape, weights[n][i], log_of[place], visible);
                    weights[n][i] = p.x;
                    gradients[n][i] = p.x * (gradients[n][i] - sum_of[place]) * p.y;
                }
            }
            add_products<D, Q>(d_values, weights, d_outs);
            add_products<D, Q>(d_keys, gradients, queries);
        }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int key = first + own + lane / 4 + 8 * r;
        if (key >= len) continue;
        const size_t to = (row + key) * kv_width + kv_head * D + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<float2 *>(dk + to + 8 * d) =
                make_float2(d_keys[d][2 * r], d_keys[d][2 * r + 1]);
            *reinterpret_cast<float2 *>(dv + to + 8 * d) =
                make_float2(d_values[d][2 * r], d_values[d][2 * r + 1]);
        }
    }
}

// dq = dS K for a tile of queries of a head; K keys at a time.
template <int D, int K>
__device__ void backward_queries(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *d_out,
                                 const float *logs, const float *sums, const unsigned *visible_from,
                                 float *dq, const Shape &shape) {
    extern __shared__ uint4 memory[];
    bf16 *queries = reinterpret_cast<bf16 *>(memory), *d_outs = queries + TILE_VALUES<D>,
         *keys = d_outs + TILE_VALUES<D>, *values = keys + TILE_VALUES<D>;
    const int first = blockIdx.x * TILE, head = blockIdx.y, len = shape.len;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    const int kv_head = head / (shape.heads / shape.kv_heads);
    k += row * kv_width + kv_head * D, v += row * kv_width + kv_head * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    load_tile<D>(queries, q + row * width + head * D, width, first, len);
    load_tile<D>(d_outs, d_out + row * width + head * D, width, first, len);
    int query[2], seen[2];
    float log[2], sum[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        query[r] = first + own + lane / 4 + 8 * r;
        const bool exists = query[r] < len;
        const size_t place = (row + query[r]) * shape.heads + head;
        seen[r] = exists ? first_seen(shape, visible_from, query[r]) : len;
        log[r] = exists ? logs[place] : 0.0f;
        sum[r] = exists ? sums[place] : 0.0f;
    }
    float gradient[D / 8][4] = {};
    const int begin = first_seen(shape, visible_from, first) / K * K;
    for (int at = begin; at < min(first + TILE, len); at += K) {
        __syncthreads();
        const int end = min(at + K, len);
        load_tile<D>(keys, k, kv_width, at, end);
        load_tile<D>(values, v, kv_width, at, end);
        __syncthreads();
        float scores[K / 8][4], d_scores[K / 8][4];
        products<D, K>(scores, queries, own, keys);
        products<D, K>(d_scores, d_outs, own, values);
#pragma unroll
        for (int n = 0; n < K / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int r = i / 2, key = at + 8 * n + lane % 4 * 2 + i % 2;
                const bool visible = key <= query[r] && key >= seen[r];
                const float2 p = weight(shape, scores[n][i], log[r], visible);
                d_scores[n][i] = p.x * (d_scores[n][i] - sum[r]) * p.y;
            }
        }
        add_products<D, K>(gradient, d_scores, keys);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (query[r] >= len) continue;
        const size_t to = (row + query[r]) * width + head * D + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<float2 *>(dq + to + 8 * d) =
                make_float2(gradient[d][2 * r], gradient[d][2 * r + 1]);
        }
    }
}

} // namespace

// Rounds the gradient of the output and sums it times the output over each head, a warp to a head.
extern "C" __global__ void __launch_bounds__(THREADS)
    flash_sums(const float *d_out, const bf16 *out, bf16 *rounded, float *sums, int dim, int heads) {
    wait_for_previous();
    const int lane = threadIdx.x % WARP, head = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (head >= heads) return;
    const size_t at = (size_t)head * dim;
    float sum = 0.0f;
    for (int d = lane; d < dim; d += WARP) {
        const bf16 word = __float2bfloat16_rn(d_out[at + d]);
        rounded[at + d] = word;
        sum += __bfloat162float(word) * __bfloat162float(out[at + d]);
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[head] = sum;
}

// Tiles of `FEW` where two of them with their gradients would not fit into registers.
#define HEADS(D, FEW)                                                                                   \
    extern "C" __global__ void __launch_bounds__(TEAM)                                                  \
        flash_##D(const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *visible_from, bf16 *out, \
                  float *logs, int len, int heads, int kv_heads, int window, float scale,               \
                  float softcap) {                                                                      \
        wait_for_previous();                                                                            \
        const Shape shape = {len, heads, kv_heads, window, scale, softcap};                             \
        forward<D>(q, k, v, visible_from, out, logs, shape);                                            \
    }                                                                                                   \
    extern "C" __global__ void __launch_bounds__(TEAM) flash_keys_##D(                                  \
        const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *d_out, const float *logs,              \
        const float *sums, const unsigned *visible_from, float *dk, float *dv, int len, int heads,      \
        int kv_heads, int window, float scale, float softcap) {                                         \
        wait_for_previous();                                                                            \
        const Shape shape = {len, heads, kv_heads, window, scale, softcap};                             \
        backward_keys<D, FEW>(q, k, v, d_out, logs, sums, visible_from, dk, dv, shape);                 \
    }                                                                                                   \
    extern "C" __global__ void __launch_bounds__(TEAM) flash_queries_##D(                               \
        const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *d_out, const float *logs,              \
        const float *sums, const unsigned *visible_from, float *dq, int len, int heads, int kv_heads,   \
        int window, float scale, float softcap) {                                                       \
        wait_for_previous();                                                                            \
        const Shape shape = {len, heads, kv_heads, window, scale, softcap};                             \
        backward_queries<D, FEW>(q, k, v, d_out, logs, sums, visible_from, dq, shape);                  \
    }

HEADS(16, 64)
HEADS(32, 64)
HEADS(48, 64)
HEADS(64, 64)
HEADS(80, 64)
HEADS(96, 32)
HEADS(112, 32)
HEADS(128, 32)
