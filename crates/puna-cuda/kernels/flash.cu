// Attention over whole rows in training (Dao 2023, arXiv:2307.08691): scores live in registers, and
// products are those of tensor cores on bfloat16 with sums in float32. Gradients are summed in one order,
// without atomics: those of keys and values by a block per tile of keys, those of queries by a block per
// tile of queries.

#include "parts.cuh"

// Older GPUs have no such products; they are not asked for them.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define ASM(...) asm volatile(__VA_ARGS__)
#else
#define ASM(...) __trap()
#endif

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
template <int D, int ROWS> constexpr int VALUES = ROWS * STRIDE<D>;
template <int D> constexpr int TILE_VALUES = VALUES<D, TILE>;

// Begins to copy `ROWS` rows of a head from `first` on, zero from row `end` on.
template <int D, int ROWS = TILE>
__device__ void begin_tile(bf16 *to, const bf16 *from, size_t width, int first, int end) {
    constexpr int PIECES = D / 8;
    for (int i = threadIdx.x; i < ROWS * PIECES; i += TEAM) {
        const int row = i / PIECES, piece = i % PIECES * 8;
        const bool exists = first + row < end;
        const bf16 *source = from + (size_t)(exists ? first + row : 0) * width + piece;
        const uint32_t address = (uint32_t)__cvta_generic_to_shared(to + row * STRIDE<D> + piece);
        // What is not read is zero.
        ASM("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                     :
                     : "r"(address), "l"(source), "r"(exists ? 16 : 0));
    }
}

// What was begun since the last call belongs together.
__device__ __forceinline__ void close_group() { ASM("cp.async.commit_group;"); }

// Waits for all groups but the last N.
template <int N> __device__ __forceinline__ void wait_groups() {
    ASM("cp.async.wait_group %0;" : : "n"(N) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const bf16 *from) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(from);
    ASM("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const bf16 *from) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(from);
    ASM("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
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
    ASM("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
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

constexpr float LOG2E = 1.4426950408889634f;

__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Attends with a tile of queries of a head. `logs` `[N, H]` gets the logarithms of the softmax's sums.
template <int D>
__device__ void forward(const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *visible_from,
                        bf16 *out, float *logs, const Shape &shape) {
    extern __shared__ uint4 memory[];
    // Keys and values twice: the next ones come while these are used.
    bf16 *queries = reinterpret_cast<bf16 *>(memory), *keys = queries + TILE_VALUES<D>,
         *values = keys + 2 * TILE_VALUES<D>;
    // The last queries see most: they begin first.
    const int first = (gridDim.x - 1 - blockIdx.x) * TILE, head = blockIdx.y, len = shape.len;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    const int kv_head = head / (shape.heads / shape.kv_heads);
    k += row * kv_width + kv_head * D, v += row * kv_width + kv_head * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    const int end = min(first + TILE, len);
    const int begin = first_seen(shape, visible_from, first) / TILE * TILE;
    const int all_see = first_seen(shape, visible_from, end - 1);
    begin_tile<D>(queries, q + row * width + head * D, width, first, len);
    begin_tile<D>(keys, k, kv_width, begin, len);
    begin_tile<D>(values, v, kv_width, begin, len);
    close_group();
    // The two queries of which this thread has results.
    int query[2], seen[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        query[r] = first + own + lane / 4 + 8 * r;
        seen[r] = query[r] < len ? first_seen(shape, visible_from, query[r]) : len;
    }
    // Logarithms are to the base of 2 here.
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f}, sums[D / 8][4] = {};
    int half = 0;
    for (int at = begin; at < end; at += TILE, half ^= 1) {
        const bool more = at + TILE < end;
        if (more) {
            begin_tile<D>(keys + (half ^ 1) * TILE_VALUES<D>, k, kv_width, at + TILE, len);
            begin_tile<D>(values + (half ^ 1) * TILE_VALUES<D>, v, kv_width, at + TILE, len);
        }
        close_group();
        wait_groups<1>();
        __syncthreads();
        float scores[TILE / 8][4];
        products<D, TILE>(scores, queries, own, keys + half * TILE_VALUES<D>);
        if (shape.softcap > 0.0f) {
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[n][i] = LOG2E * transformed(shape, scores[n][i]);
            }
        } else {
            const float scale = LOG2E * shape.scale;
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[n][i] *= scale;
            }
        }
        if (at + TILE - 1 > first || at < all_see) {
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int r = i / 2, key = at + 8 * n + lane % 4 * 2 + i % 2;
                    if (key > query[r] || key < seen[r]) scores[n][i] = -INFINITY;
                }
            }
        }
        float base[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float highest = most[r];
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n) {
                highest = fmaxf(highest, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
            }
            highest = row_max(highest);
            // A row that has seen nothing yet.
            base[r] = highest == -INFINITY ? 0.0f : highest;
            const float factor = power_of_two(most[r] - base[r]);
            most[r] = highest;
            total[r] *= factor;
#pragma unroll
            for (int d = 0; d < D / 8; ++d) sums[d][2 * r] *= factor, sums[d][2 * r + 1] *= factor;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                scores[n][i] = power_of_two(scores[n][i] - base[i / 2]);
                total[i / 2] += scores[n][i];
            }
        }
        add_products<D, TILE>(sums, scores, values + half * TILE_VALUES<D>);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] = row_sum(total[r]);
        if (query[r] >= len) continue;
        const size_t token = row + query[r];
        if (lane % 4 == 0) logs[token * shape.heads + head] = most[r] / LOG2E + logf(total[r]);
        const float inverse = 1.0f / total[r];
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<uint32_t *>(out + token * width + head * D + 8 * d + lane % 4 * 2) =
                pack(sums[d][2 * r] * inverse, sums[d][2 * r + 1] * inverse);
        }
    }
}

// Scores to weights p, and the gradients of the weights to those of the products but for the factor
// `scale`. Keys by queries or the other way round: `log`, `sum` and `visible` are functions of the place
// of a value.
template <int N, typename Log, typename Sum, typename Visible>
__device__ __forceinline__ void to_gradients(const Shape &shape, float (&weights)[N][4],
                                             float (&gradients)[N][4], bool masks, Log log, Sum sum,
                                             Visible visible) {
    if (shape.softcap > 0.0f) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float score = transformed(shape, weights[n][i]), capped = score / shape.softcap;
                const float p = visible(n, i) ? power_of_two(LOG2E * (score - log(n, i))) : 0.0f;
                weights[n][i] = p;
                gradients[n][i] = p * (gradients[n][i] - sum(n, i)) * (1.0f - capped * capped);
            }
        }
        return;
    }
    const float scale = LOG2E * shape.scale;
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) weights[n][i] = power_of_two(weights[n][i] * scale - LOG2E * log(n, i));
    }
    if (masks) {
#pragma unroll
        for (int n = 0; n < N; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) weights[n][i] = visible(n, i) ? weights[n][i] : 0.0f;
        }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) gradients[n][i] = weights[n][i] * (gradients[n][i] - sum(n, i));
    }
}

// dv += Pᵀ dO and dk += dSᵀ Q for a tile of keys of a head, over all queries that see any of them; Q of
// them at a time. `sums` `[N, H]` are the rows' sums of dO O.
template <int D, int Q>
__device__ void backward_keys(const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *d_out,
                              const float *logs, const float *sums, const unsigned *visible_from,
                              float *dk, float *dv, const Shape &shape) {
    extern __shared__ uint4 memory[];
    // Queries and gradients twice: the next ones come while these are used.
    bf16 *keys = reinterpret_cast<bf16 *>(memory), *values = keys + TILE_VALUES<D>,
         *queries = values + TILE_VALUES<D>, *d_outs = queries + 2 * VALUES<D, Q>;
    __shared__ float log_of[2][Q], sum_of[2][Q];
    __shared__ int seen_of[2][Q];
    const int first = blockIdx.x * TILE, kv_head = blockIdx.y, len = shape.len;
    const int group = shape.heads / shape.kv_heads;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    const int last = min(first + TILE, len) - 1;
    begin_tile<D>(keys, k + row * kv_width + kv_head * D, kv_width, first, len);
    begin_tile<D>(values, v + row * kv_width + kv_head * D, kv_width, first, len);
    float d_keys[D / 8][4] = {}, d_values[D / 8][4] = {};
    // What a query sees begins no earlier than what the query before it sees: these see any of the keys.
    int end = first;
    for (int step = Q << (31 - __clz((len - first) / Q | 1)); step >= Q; step /= 2) {
        if (end + step < len && first_seen(shape, visible_from, end + step) <= last) end += step;
    }
    end += Q;
    auto begin_queries = [&](int head, int at, int half) {
        const size_t to = half * VALUES<D, Q>;
        begin_tile<D, Q>(queries + to, q + row * width + head * D, width, at, len);
        begin_tile<D, Q>(d_outs + to, d_out + row * width + head * D, width, at, len);
        if (threadIdx.x < Q) {
            const int query = at + threadIdx.x;
            const bool exists = query < len;
            const size_t place = (row + query) * shape.heads + head;
            log_of[half][threadIdx.x] = exists ? logs[place] : 0.0f;
            sum_of[half][threadIdx.x] = exists ? sums[place] : 0.0f;
            seen_of[half][threadIdx.x] = exists ? first_seen(shape, visible_from, query) : len;
        }
    };
    int head = kv_head * group, at = first, half = 0;
    const int heads_end = head + group;
    begin_queries(head, at, half);
    close_group();
    while (head < heads_end) {
        int next_head = head, next = at + Q;
        if (next >= end) next_head = head + 1, next = first;
        if (next_head < heads_end) begin_queries(next_head, next, half ^ 1);
        close_group();
        wait_groups<1>();
        __syncthreads();
        float weights[Q / 8][4], gradients[Q / 8][4]; // Keys by queries.
        products<D, Q>(weights, keys, own, queries + half * VALUES<D, Q>);
        products<D, Q>(gradients, values, own, d_outs + half * VALUES<D, Q>);
        const bool masks = at < last || at + Q > len || seen_of[half][Q - 1] > first;
        auto place = [&](int n, int i) { return 8 * n + lane % 4 * 2 + i % 2; };
        to_gradients<Q / 8>(
            shape, weights, gradients, masks, [&](int n, int i) { return log_of[half][place(n, i)]; },
            [&](int n, int i) { return sum_of[half][place(n, i)]; },
            [&](int n, int i) {
                const int key = first + own + lane / 4 + 8 * (i / 2);
                return key <= at + place(n, i) && key >= seen_of[half][place(n, i)];
            });
        add_products<D, Q>(d_values, weights, d_outs + half * VALUES<D, Q>);
        add_products<D, Q>(d_keys, gradients, queries + half * VALUES<D, Q>);
        __syncthreads();
        head = next_head, at = next, half ^= 1;
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int key = first + own + lane / 4 + 8 * r;
        if (key >= len) continue;
        const size_t to = (row + key) * kv_width + kv_head * D + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<float2 *>(dk + to + 8 * d) =
                make_float2(d_keys[d][2 * r] * shape.scale, d_keys[d][2 * r + 1] * shape.scale);
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
    // Keys and values twice: the next ones come while these are used.
    bf16 *queries = reinterpret_cast<bf16 *>(memory), *d_outs = queries + TILE_VALUES<D>,
         *keys = d_outs + TILE_VALUES<D>, *values = keys + 2 * VALUES<D, K>;
    // The last queries see most: they begin first.
    const int first = (gridDim.x - 1 - blockIdx.x) * TILE, head = blockIdx.y, len = shape.len;
    const size_t row = (size_t)blockIdx.z * len;
    const size_t width = (size_t)shape.heads * D, kv_width = (size_t)shape.kv_heads * D;
    const int kv_head = head / (shape.heads / shape.kv_heads);
    k += row * kv_width + kv_head * D, v += row * kv_width + kv_head * D;
    visible_from += row;
    const int lane = threadIdx.x % WARP, own = threadIdx.x / WARP * 16;
    const int end = min(first + TILE, len);
    const int begin = first_seen(shape, visible_from, first) / K * K;
    const int all_see = first_seen(shape, visible_from, end - 1);
    auto begin_keys = [&](int at, int half) {
        begin_tile<D, K>(keys + half * VALUES<D, K>, k, kv_width, at, len);
        begin_tile<D, K>(values + half * VALUES<D, K>, v, kv_width, at, len);
    };
    begin_tile<D>(queries, q + row * width + head * D, width, first, len);
    begin_tile<D>(d_outs, d_out + row * width + head * D, width, first, len);
    begin_keys(begin, 0);
    close_group();
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
    int half = 0;
    for (int at = begin; at < end; at += K, half ^= 1) {
        if (at + K < end) begin_keys(at + K, half ^ 1);
        close_group();
        wait_groups<1>();
        __syncthreads();
        float scores[K / 8][4], d_scores[K / 8][4];
        products<D, K>(scores, queries, own, keys + half * VALUES<D, K>);
        products<D, K>(d_scores, d_outs, own, values + half * VALUES<D, K>);
        const bool masks = at + K - 1 > first || at < all_see;
        to_gradients<K / 8>(
            shape, scores, d_scores, masks, [&](int, int i) { return log[i / 2]; },
            [&](int, int i) { return sum[i / 2]; },
            [&](int n, int i) {
                const int r = i / 2, key = at + 8 * n + lane % 4 * 2 + i % 2;
                return key <= query[r] && key >= seen[r];
            });
        add_products<D, K>(gradient, d_scores, keys + half * VALUES<D, K>);
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        if (query[r] >= len) continue;
        const size_t to = (row + query[r]) * width + head * D + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
            *reinterpret_cast<float2 *>(dq + to + 8 * d) =
                make_float2(gradient[d][2 * r] * shape.scale, gradient[d][2 * r + 1] * shape.scale);
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

// `FEW` rows at a time where twice 64 with their gradients would not fit into registers; so many `BLOCKS`
// that are to share a multiprocessor.
#define HEADS(D, FEW, BLOCKS)                                                                           \
    extern "C" __global__ void __launch_bounds__(TEAM)                                                  \
        flash_##D(const bf16 *q, const bf16 *k, const bf16 *v, const unsigned *visible_from, bf16 *out, \
                  float *logs, int len, int heads, int kv_heads, int window, float scale,               \
                  float softcap) {                                                                      \
        wait_for_previous();                                                                            \
        const Shape shape = {len, heads, kv_heads, window, scale, softcap};                             \
        forward<D>(q, k, v, visible_from, out, logs, shape);                                            \
    }                                                                                                   \
    extern "C" __global__ void __launch_bounds__(TEAM, BLOCKS) flash_keys_##D(                          \
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

HEADS(16, 64, 3)
HEADS(32, 64, 3)
HEADS(48, 32, 3)
HEADS(64, 32, 3)
HEADS(80, 32, 2)
HEADS(96, 32, 2)
HEADS(112, 32, 2)
HEADS(128, 32, 2)
