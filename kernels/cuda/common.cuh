// What every kernel shares: element access and conversion, fixed-order reductions, the failure record.
// The same source runs on the CPU in tests (tests/cuda_on_cpu), which defines CUDA_ON_CPU and the CUDA words it uses.
//
// Rules. Every sum has an order fixed by shapes alone: no float atomics. Integer atomics are allowed, their results do not
// depend on order. Decisions use `product` and `difference`, which are never fused.
#pragma once
#include "ops.cuh"

#ifndef CUDA_ON_CPU
#define KERNEL(name)
#define DYNAMIC_SHARED(T, name)                                  \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    T* name = reinterpret_cast<T*>(name##_bytes)
#endif

#define ALL_LANES 0xffffffffu
#define EMPTY 0xffffffffu
#define F32_INF __int_as_float(0x7f800000)

enum { F32 = 1, BF16 = 2, F16 = 3 };

template <class T> __device__ inline T* at(const Mat& m) { return reinterpret_cast<T*>(m.addr); }
__device__ inline bool present(const Mat& m) { return m.addr != 0; }

// One rounding each, never fused: the rule for everything that decides.
__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float difference(float a, float b) { return __fadd_rn(a, -b); }

// bfloat16: the upper half of an f32, rounded to nearest even; a NaN stays one.
__device__ inline float from_bf16(u16 h) { return __int_as_float((int)((u32)h << 16)); }
__device__ inline u16 to_bf16(float f) {
    const u32 u = (u32)__float_as_int(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (u16)((u >> 16) | 0x40u);
    return (u16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#ifdef CUDA_ON_CPU
__device__ inline float from_f16(u16 h) { return cuda_on_cpu::half_to_float(h); }
__device__ inline u16 to_f16(float f) { return cuda_on_cpu::float_to_half(f); }
#else
__device__ inline float from_f16(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
__device__ inline u16 to_f16(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
#endif

// Element `i` from the start of an operand of any float type.
__device__ inline float load_float(const Mat& m, u64 i) {
    if (m.dtype == F32) return at<float>(m)[i];
    return m.dtype == BF16 ? from_bf16(at<u16>(m)[i]) : from_f16(at<u16>(m)[i]);
}
__device__ inline void store_float(const Mat& m, u64 i, float v) {
    if (m.dtype == F32) at<float>(m)[i] = v;
    else at<u16>(m)[i] = m.dtype == BF16 ? to_bf16(v) : to_f16(v);
}

// Element of an optional row [1, n], and whether an optional mask lets a column pass.
__device__ inline float or_else(const Mat& m, u64 c, float absent) { return present(m) ? at<float>(m)[c] : absent; }
__device__ inline bool unmasked(const Mat& mask, u64 c) { return !present(mask) || at<u8>(mask)[c] == 1; }

__device__ inline void fail(Failure* failure, u32 tag, u64 value, u64 limit) {
    if (atomicCAS(&failure->tag, 0u, tag) == 0u) {
        failure->value = value;
        failure->limit = limit;
    }
}

// Rows in y, columns in x; both loop, so any grid covers any matrix.
#define FOR_ELEMENTS(r, c, ROWS, COLS)                   \
    for (u64 r = blockIdx.y; r < (ROWS); r += gridDim.y) \
        for (u64 c = (u64)blockIdx.x * blockDim.x + threadIdx.x; c < (COLS); c += (u64)gridDim.x * blockDim.x)

__device__ inline int lane() { return threadIdx.x & 31; }
__device__ inline int warp() { return threadIdx.x >> 5; }

struct Plus {
    template <class T> static __device__ T of(T a, T b) { return a + b; }
};
struct Larger {  // ignores NaN
    static __device__ float of(float a, float b) { return fmaxf(a, b); }
};

// Every lane gets the result; all pairs are combined symmetrically, so all lanes get the same bits.
template <class F, class T> __device__ T warp_all(T v) {
    for (int d = 16; d > 0; d >>= 1) v = F::of(v, __shfl_xor_sync(ALL_LANES, v, d));
    return v;
}

// Every thread of a block of whole warps gets the result.
template <class F, class T> __device__ T block_all(T v) {
    __shared__ T part[32];
    v = warp_all<F>(v);
    __syncthreads();  // part may still be read from the call before
    if (lane() == 0) part[warp()] = v;
    __syncthreads();
    T total = part[0];
    for (int w = 1; w < (int)blockDim.x / 32; w++) total = F::of(total, part[w]);
    return total;
}

// Sum of `v` over the threads before this one; `total` over all. Integers, blocks of whole warps.
template <class T> __device__ T block_before(T v, T& total) {
    __shared__ T part[32];
    T sum = v;
    for (int d = 1; d < 32; d <<= 1) {
        const T other = __shfl_up_sync(ALL_LANES, sum, d);
        if (lane() >= d) sum += other;
    }
    __syncthreads();
    if (lane() == 31) part[warp()] = sum;
    __syncthreads();
    T before = 0;
    total = 0;
    for (int w = 0; w < (int)blockDim.x / 32; w++) {
        if (w < warp()) before += part[w];
        total += part[w];
    }
    return before + sum - v;
}

// Slots of a sparse row.
struct Range { u64 first, last; };
__device__ inline Range slots_of(const Sparse& s, u64 r) {
    if (present(s.ptr)) return {at<u32>(s.ptr)[r], at<u32>(s.ptr)[r + 1]};
    return {r * s.vals.cols, (r + 1) * s.vals.cols};
}
// All slots that are defined: offsets may be those of later rows of a larger matrix, and begin where these do.
__device__ inline Range all_slots(const Sparse& s) {
    if (present(s.ptr)) return {at<u32>(s.ptr)[0], at<u32>(s.ptr)[s.rows]};
    return {0, s.rows * s.vals.cols};
}
// The column in a slot, EMPTY also for one outside the matrix, which is a failure.
__device__ inline u32 column_in(const Sparse& s, u64 slot, Failure* failure, u32 tag) {
    const u32 f = at<u32>(s.idx)[slot];
    if (f != EMPTY && f >= s.n) {
        fail(failure, tag, f, s.n);
        return EMPTY;
    }
    return f;
}
