// What the kernels share.
//
// Each kernel lets the next one start at once (`griddepcontrol.launch_dependents`): its blocks fetch
// their first weights, which nothing writes, while this one still computes, and wait for its results
// (`griddepcontrol.wait`) before they read any.
#pragma once

#include <cuda_bf16.h>
#include <stdint.h>

namespace {

constexpr int WARP = 32;
constexpr int WARPS = 8;
constexpr int THREADS = WARP * WARPS;

__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Eight values that lie together, as they are stored.
template <typename T> struct Eight;

template <> struct Eight<__nv_bfloat16> {
    uint4 words;

    // Read once: not kept in the caches that others need.
    __device__ __forceinline__ void stream(const __nv_bfloat16 *from) {
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
                     : "l"(from));
    }
    __device__ __forceinline__ void load(const __nv_bfloat16 *from) {
        words = *reinterpret_cast<const uint4 *>(from);
    }
    __device__ __forceinline__ void clear() { words = make_uint4(0, 0, 0, 0); }
    __device__ __forceinline__ void values(float (&out)[8]) const {
        const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            out[2 * i] = __uint_as_float(pairs[i] << 16);
            out[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
        }
    }
};

template <> struct Eight<float> {
    float4 low, high;

    __device__ __forceinline__ void stream(const float *from) {
        low = __ldcs(reinterpret_cast<const float4 *>(from));
        high = __ldcs(reinterpret_cast<const float4 *>(from) + 1);
    }
    __device__ __forceinline__ void load(const float *from) {
        low = reinterpret_cast<const float4 *>(from)[0];
        high = reinterpret_cast<const float4 *>(from)[1];
    }
    __device__ __forceinline__ void clear() { low = high = make_float4(0, 0, 0, 0); }
    __device__ __forceinline__ void values(float (&out)[8]) const {
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    }
};

__device__ __forceinline__ float2 two(const __nv_bfloat16 *from) {
    const uint32_t pair = *reinterpret_cast<const uint32_t *>(from);
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
__device__ __forceinline__ float2 two(const float *from) {
    return *reinterpret_cast<const float2 *>(from);
}

__device__ __forceinline__ void store(float *to, float value) { *to = value; }
__device__ __forceinline__ void store(__nv_bfloat16 *to, float value) {
    *to = __float2bfloat16_rn(value);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        x += __shfl_xor_sync(0xffffffffu, x, step);
    }
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = WARP / 2; step > 0; step /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    }
    return x;
}

// The sum over all threads of a block, for each of them.
template <int N> __device__ __forceinline__ void block_sum(float (&x)[N], float *shared) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const float sum = warp_sum(x[n]);
        if (lane == 0) shared[n * WARPS + warp] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; ++n) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += shared[n * WARPS + w];
        x[n] = sum;
    }
}

// Activations of a gate, as in `puna_kernels::GateActivation`.
enum Activation { SILU = 0, GELU_TANH = 1, GELU_ERF = 2 };

__device__ __forceinline__ float activate(int activation, float x) {
    if (activation == SILU) return x / (1.0f + __expf(-x));
    if (activation == GELU_TANH) {
        return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    }
    return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
}

} // namespace
