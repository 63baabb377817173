// Kernels of a pass over many tokens: what stands between the products of cuBLAS.

#include "parts.cuh"

namespace {

__device__ __forceinline__ float load(const float *from) { return *from; }
__device__ __forceinline__ float load(const __nv_bfloat16 *from) { return __bfloat162float(*from); }

// Turns scores `[K, G, T, S]` into weights where they lie, a warp to a row. Query t is at position
// `first + t`; key s at `begin + s`.
template <typename T>
__device__ void softmax(T *scores, int rows, int tokens, int keys, int first, int begin, int window,
                        float scale, float softcap) {
    let_next_start();
    wait_for_previous();
    const int lane = threadIdx.x % WARP, r = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (r >= rows) return;
    T *row = scores + (size_t)r * keys;
    const int position = first + r % tokens;
    const int from = window > 0 ? max(0, position + 1 - window - begin) : 0;
    const int to = min(keys, position + 1 - begin);
    auto score = [&](int s) {
        const float x = load(row + s) * scale;
        return softcap > 0.0f ? softcap * tanhf(x / softcap) : x;
    };
    float most = -INFINITY;
#pragma unroll 4
    for (int s = from + lane; s < to; s += WARP) most = fmaxf(most, score(s));
    most = warp_max(most);
    float sum = 0.0f;
#pragma unroll 4
    for (int s = from + lane; s < to; s += WARP) sum += __expf(score(s) - most);
    const float inverse = 1.0f / warp_sum(sum);
#pragma unroll 4
    for (int s = lane; s < keys; s += WARP) {
        const bool seen = s >= from && s < to;
        store(row + s, seen ? __expf(score(s) - most) * inverse : 0.0f);
    }
}

} // namespace

#define TYPED(T, SUFFIX)                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                               \
        softmax_##SUFFIX(T *scores, int rows, int tokens, int keys, int first, int begin, int window,   \
                         float scale, float softcap) {                                                  \
        softmax<T>(scores, rows, tokens, keys, first, begin, window, scale, softcap);                   \
    }

TYPED(__nv_bfloat16, bf16)
TYPED(float, f32)
