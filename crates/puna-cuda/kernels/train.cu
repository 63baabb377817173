// Kernels of training: what stands between the products of cuBLAS, forward and backward, and the
// optimizer. Sums have one order: the same run gives the same bits on the same GPU.

#include "parts.cuh"

namespace {

// Four values that lie together.
__device__ __forceinline__ void store(float *to, const float (&values)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(values[0], values[1], values[2], values[3]);
}
__device__ __forceinline__ void store(__nv_bfloat16 *to, const float (&values)[4]) {
    __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(values[0], values[1]),
                               __floats2bfloat162_rn(values[2], values[3])};
    *reinterpret_cast<uint2 *>(to) = *reinterpret_cast<uint2 *>(pairs);
}
__device__ __forceinline__ void load(float (&to)[4], const float *from) {
    const float4 values = *reinterpret_cast<const float4 *>(from);
    to[0] = values.x, to[1] = values.y, to[2] = values.z, to[3] = values.w;
}

// Does f to each index, four neighbours to a thread where the number of values allows it.
template <typename Four, typename One>
__device__ __forceinline__ void each(unsigned long long len, Four four, One one) {
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * 4;
    if (i + 4 <= len && len % 4 == 0) {
        four(i);
    } else {
        for (size_t at = i; at < len && at < i + 4; ++at) one(at);
    }
}

// The maximum over all threads of a block, for each of them.
__device__ __forceinline__ float block_max(float x, float *shared) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    float most = shared[0];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) most = fmaxf(most, shared[w]);
    return most;
}

// dx = r (w dy) - x r^3 / C sum(w dy x) + before, r = 1 / sqrt(mean(x^2) + eps); a warp to a row. The
// rows' r are left for `rms_norm_weight`.
__device__ void rms_norm_back(const float *x, const float *w, const float *dy, const float *before,
                              float *dx, float *roots, float eps, int rows, int cols) {
    const int lane = threadIdx.x % WARP, row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    const size_t at = (size_t)row * cols;
    x += at, dy += at, dx += at;
    float squares = 0.0f, along = 0.0f;
    if (cols % 4 == 0) {
        for (int c = 4 * lane; c < cols; c += 4 * WARP) {
            float value[4], factor[4], d[4];
            load(value, x + c), load(factor, w + c), load(d, dy + c);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                squares += value[j] * value[j];
                along += factor[j] * d[j] * value[j];
            }
        }
    } else {
        for (int c = lane; c < cols; c += WARP) {
            squares += x[c] * x[c];
            along += w[c] * dy[c] * x[c];
        }
    }
    const float r = rsqrtf(warp_sum(squares) / cols + eps);
    along = r * r * r / cols * warp_sum(along);
    if (lane == 0) roots[row] = r;
    if (cols % 4 == 0) {
        for (int c = 4 * lane; c < cols; c += 4 * WARP) {
            float value[4], factor[4], d[4], more[4] = {};
            load(value, x + c), load(factor, w + c), load(d, dy + c);
            if (before) load(more, before + at + c);
#pragma unroll
            for (int j = 0; j < 4; ++j) d[j] = r * factor[j] * d[j] - value[j] * along + more[j];
            store(dx + c, d);
        }
    } else {
        for (int c = lane; c < cols; c += WARP) {
            dx[c] = r * w[c] * dy[c] - x[c] * along + (before ? before[at + c] : 0.0f);
        }
    }
}

// Normalized rows, in the type of the products they go into; a warp to a row.
template <typename T>
__device__ void rms_norm_rows(const float *x, const float *w, float eps, T *y, int rows, int cols) {
    const int lane = threadIdx.x % WARP, row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    x += (size_t)row * cols, y += (size_t)row * cols;
    float squares = 0.0f;
    if (cols % 4 == 0) {
        for (int c = 4 * lane; c < cols; c += 4 * WARP) {
            float value[4];
            load(value, x + c);
#pragma unroll
            for (int j = 0; j < 4; ++j) squares += value[j] * value[j];
        }
    } else {
        for (int c = lane; c < cols; c += WARP) squares += x[c] * x[c];
    }
    const float r = rsqrtf(warp_sum(squares) / cols + eps);
    if (cols % 4 == 0) {
        for (int c = 4 * lane; c < cols; c += 4 * WARP) {
            float value[4], factor[4];
            load(value, x + c), load(factor, w + c);
#pragma unroll
            for (int j = 0; j < 4; ++j) value[j] *= r * factor[j];
            store(y + c, value);
        }
    } else {
        for (int c = lane; c < cols; c += WARP) store(y + c, x[c] * r * w[c]);
    }
}

// Columns of a block of `column_sums`, and rows that it adds at once.
constexpr int TILE = 32;

// partial[y, c] = sum over the rows of part y of f(row, c), 32 columns to a block.
template <typename F>
__device__ void column_sums(float *partial, int rows, int cols, F f) {
    __shared__ float shared[WARPS][TILE];
    const int c = blockIdx.x * TILE + threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int each = (rows + gridDim.y - 1) / gridDim.y;
    const int from = blockIdx.y * each, to = min(rows, from + each);
    float sum = 0.0f;
    if (c < cols) {
        for (int n = from + warp; n < to; n += WARPS) sum += f(n, (size_t)n * cols + c);
    }
    shared[warp][threadIdx.x % WARP] = sum;
    __syncthreads();
    if (warp == 0 && c < cols) {
#pragma unroll
        for (int w = 1; w < WARPS; ++w) sum += shared[w][threadIdx.x];
        partial[(size_t)blockIdx.y * cols + c] = sum;
    }
}

__device__ float derivative(int activation, float x) {
    if (activation == SILU) {
        const float s = 1.0f / (1.0f + __expf(-x));
        return s + x * s * (1.0f - s);
    }
    if (activation == GELU_TANH) {
        const float t = tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x));
        const float inner = 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    }
    const float density = 0.3989422804014327f * __expf(-0.5f * x * x);
    return 0.5f * (1.0f + erff(x * 0.7071067811865476f)) + x * density;
}

template <typename T>
__device__ void gated_back(const float *gates, const float *ups, const float *dy, int activation,
                           T *d_gates, T *d_ups, unsigned long long len) {
    each(
        len,
        [&](size_t i) {
            float gate[4], up[4], d[4], d_gate[4], d_up[4];
            load(gate, gates + i), load(up, ups + i), load(d, dy + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                d_gate[j] = d[j] * up[j] * derivative(activation, gate[j]);
                d_up[j] = d[j] * activate(activation, gate[j]);
            }
            store(d_gates + i, d_gate), store(d_ups + i, d_up);
        },
        [&](size_t i) {
            store(d_gates + i, dy[i] * ups[i] * derivative(activation, gates[i]));
            store(d_ups + i, dy[i] * activate(activation, gates[i]));
        });
}

template <typename T>
__device__ void gated_forward(const float *gates, const float *ups, int activation, T *y,
                              unsigned long long len) {
    each(
        len,
        [&](size_t i) {
            float gate[4], up[4];
            load(gate, gates + i), load(up, ups + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) up[j] *= activate(activation, gate[j]);
            store(y + i, up);
        },
        [&](size_t i) { store(y + i, activate(activation, gates[i]) * ups[i]); });
}

// Rotates the first dimensions of each head (half-split pairs) of a token, or back where `direction` is
// -1; a block to a token, a thread to two pairs of a head where that is possible, else to one, and behind
// the pairs to values that are passed on.
template <typename T>
__device__ void turn(const float *x, const float *cosines, const float *sines, float direction, T *y,
                     int heads, int dim, int rotary) {
    const unsigned half = rotary / 2, each = dim - half;
    const size_t token = blockIdx.x;
    x += token * heads * dim, y += token * heads * dim;
    cosines += token * half, sines += token * half;
    if (rotary == dim && half % 4 == 0) {
        for (unsigned i = threadIdx.x; i < heads * half / 4; i += blockDim.x) {
            const unsigned head = i / (half / 4), at = i % (half / 4) * 4;
            float a[4], b[4], c[4], s[4], first[4], second[4];
            load(a, x + head * dim + at), load(b, x + head * dim + half + at);
            load(c, cosines + at), load(s, sines + at);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                first[j] = a[j] * c[j] - b[j] * (direction * s[j]);
                second[j] = b[j] * c[j] + a[j] * (direction * s[j]);
            }
            store(y + head * dim + at, first), store(y + head * dim + half + at, second);
        }
        return;
    }
    for (unsigned i = threadIdx.x; i < heads * each; i += blockDim.x) {
        const unsigned head = i / each, at = i % each;
        const float *from = x + head * dim;
        T *to = y + head * dim;
        if (at < half) {
            const float c = cosines[at], s = direction * sines[at];
            const float a = from[at], b = from[at + half];
            store(to + at, a * c - b * s);
            store(to + at + half, b * c + a * s);
        } else {
            store(to + at + half, from[at + half]);
        }
    }
}

// Loss of a row of logits, and the gradient: s (softmax - onehot + 2 c log Z softmax). A block to a row.
template <typename T>
__device__ void cross_entropy(const float *logits, const unsigned *targets, float softcap, float scale,
                              float z_loss, float *losses, T *gradients, int vocab) {
    __shared__ float shared[2 * WARPS];
    const float *row = logits + (size_t)blockIdx.x * vocab;
    auto logit = [&](int v) {
        const float x = row[v];
        return softcap > 0.0f ? softcap * tanhf(x / softcap) : x;
    };
    // Largest logit and sum in one pass: a thread's sum is scaled when its largest one grows.
    float own = -INFINITY, sum[1] = {0.0f};
#pragma unroll 4
    for (int v = threadIdx.x; v < vocab; v += THREADS) {
        const float x = logit(v);
        if (x > own) sum[0] *= __expf(own - x), own = x;
        sum[0] += __expf(x - own);
    }
    const float most = block_max(own, shared);
    __syncthreads();
    sum[0] *= __expf(own - most);
    block_sum<1>(sum, shared + WARPS);
    const float log_z = most + logf(sum[0]);
    const int target = targets[blockIdx.x];
    if (threadIdx.x == 0) {
        losses[2 * blockIdx.x] = log_z - logit(target);
        losses[2 * blockIdx.x + 1] = log_z * log_z;
    }
    if (!gradients) return;
    __syncthreads(); // The gradients of float32 take the place of the logits.
    const float soft = scale * (1.0f + 2.0f * z_loss * log_z);
    for (int v = threadIdx.x; v < vocab; v += THREADS) {
        const float x = logit(v);
        float d = soft * __expf(x - log_z) - (v == target ? scale : 0.0f);
        if (softcap > 0.0f) d *= 1.0f - x / softcap * (x / softcap);
        store(gradients + (size_t)blockIdx.x * vocab + v, d);
    }
}

} // namespace

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

KERNEL rms_norm_back_f32(const float *x, const float *w, const float *dy, const float *before, float *dx,
                         float *roots, float eps, int rows, int cols) {
    wait_for_previous();
    rms_norm_back(x, w, dy, before, dx, roots, eps, rows, cols);
}

KERNEL rms_norm_weight(const float *x, const float *dy, const float *roots, float *partial, int rows,
                       int cols) {
    wait_for_previous();
    column_sums(partial, rows, cols, [&](int n, size_t i) { return dy[i] * x[i] * roots[n]; });
}

KERNEL row_sum(const float *x, float *partial, int rows, int cols) {
    wait_for_previous();
    column_sums(partial, rows, cols, [&](int, size_t i) { return x[i]; });
}

// to[c] (+)= sum of the parts.
KERNEL add_parts(const float *partial, float *to, int parts, int cols, int adds) {
    wait_for_previous();
    const int c = blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols) return;
    float sum = adds ? to[c] : 0.0f;
    for (int part = 0; part < parts; ++part) sum += partial[(size_t)part * cols + c];
    to[c] = sum;
}

// y[n] = scale w[token n], a block to a token.
KERNEL look_up(const float *w, const unsigned *tokens, float scale, float *y, int cols) {
    wait_for_previous();
    const float *row = w + (size_t)tokens[blockIdx.x] * cols;
    for (int c = threadIdx.x; c < cols; c += THREADS) {
        y[(size_t)blockIdx.x * cols + c] = row[c] * scale;
    }
}

// dw[token] += scale * sum of dx over its places; a block to a token, its places in their order.
KERNEL look_up_back(const float *__restrict__ dx, const unsigned *__restrict__ tokens,
                    const unsigned *__restrict__ starts, const unsigned *__restrict__ places, float scale,
                    float *__restrict__ dw, int cols) {
    wait_for_previous();
    const unsigned from = starts[blockIdx.x], to = starts[blockIdx.x + 1];
    float *row = dw + (size_t)tokens[blockIdx.x] * cols;
    for (int c = threadIdx.x; c < cols; c += THREADS) {
        float sum = 0.0f;
#pragma unroll 8
        for (unsigned i = from; i < to; ++i) sum += dx[(size_t)places[i] * cols + c];
        row[c] += scale * sum;
    }
}

KERNEL round_f32(const float *x, __nv_bfloat16 *y, unsigned long long len) {
    wait_for_previous();
    each(
        len,
        [&](size_t i) {
            float values[4];
            load(values, x + i);
            store(y + i, values);
        },
        [&](size_t i) { store(y + i, x[i]); });
}

KERNEL add_f32(const float *a, const float *b, float *y, unsigned long long len) {
    wait_for_previous();
    each(
        len,
        [&](size_t i) {
            float x[4], more[4];
            load(x, a + i), load(more, b + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) x[j] += more[j];
            store(y + i, x);
        },
        [&](size_t i) { y[i] = a[i] + b[i]; });
}

// Sums of squares of parts of tensors, whose addresses and sizes are in a table; a block to a part.
KERNEL square_sums(const ulonglong2 *parts, float *sums) {
    __shared__ float shared[WARPS];
    wait_for_previous();
    const float *x = reinterpret_cast<const float *>(parts[blockIdx.x].x);
    const int len = parts[blockIdx.x].y;
    float sum[1] = {0.0f};
    if (len % 4 == 0) {
#pragma unroll 4
        for (int i = 4 * threadIdx.x; i < len; i += 4 * THREADS) {
            float values[4];
            load(values, x + i);
#pragma unroll
            for (int j = 0; j < 4; ++j) sum[0] += values[j] * values[j];
        }
    } else {
        for (int i = threadIdx.x; i < len; i += THREADS) sum[0] += x[i] * x[i];
    }
    block_sum<1>(sum, shared);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum[0];
}

// AdamW (Loshchilov and Hutter 2019), as puna_kernels::adamw; `words` is the copy that products take.
KERNEL adamw(float *values, const float *gradient, float *first, float *second, __nv_bfloat16 *words,
             float lr, float beta1, float beta2, float eps, float keep, float correction1,
             float correction2, float gradient_scale, unsigned long long len) {
    wait_for_previous();
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= len) return;
    const float g = gradient[i] * gradient_scale;
    const float m = first[i] = beta1 * first[i] + (1.0f - beta1) * g;
    const float v = second[i] = beta2 * second[i] + (1.0f - beta2) * g * g;
    const float root = sqrtf(v / correction2) + eps;
    const float value = values[i] = values[i] * keep - lr * (m / correction1) / root;
    if (words) words[i] = __float2bfloat16_rn(value);
}

#define TYPED(T, SUFFIX)                                                                                \
    KERNEL rms_norm_rows_##SUFFIX(const float *x, const float *w, float eps, T *y, int rows, int cols) {\
        wait_for_previous();                                                                            \
        rms_norm_rows<T>(x, w, eps, y, rows, cols);                                                     \
    }                                                                                                   \
    KERNEL gated_forward_##SUFFIX(const float *gates, const float *ups, int activation, T *y,           \
                                  unsigned long long len) {                                             \
        wait_for_previous();                                                                            \
        gated_forward<T>(gates, ups, activation, y, len);                                               \
    }                                                                                                   \
    KERNEL gated_back_##SUFFIX(const float *gates, const float *ups, const float *dy, int activation,   \
                               T *d_gates, T *d_ups, unsigned long long len) {                          \
        wait_for_previous();                                                                            \
        gated_back<T>(gates, ups, dy, activation, d_gates, d_ups, len);                                 \
    }                                                                                                   \
    KERNEL turn_##SUFFIX(const float *x, const float *cosines, const float *sines, float direction,     \
                         T *y, int heads, int dim, int rotary) {                                        \
        wait_for_previous();                                                                            \
        turn<T>(x, cosines, sines, direction, y, heads, dim, rotary);                                   \
    }                                                                                                   \
    KERNEL cross_entropy_##SUFFIX(const float *logits, const unsigned *targets, float softcap,          \
                                  float scale, float z_loss, float *losses, T *gradients, int vocab) {  \
        wait_for_previous();                                                                            \
        cross_entropy<T>(logits, targets, softcap, scale, z_loss, losses, gradients, vocab);            \
    }

TYPED(__nv_bfloat16, bf16)
TYPED(float, f32)
