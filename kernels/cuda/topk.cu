// TopK, exact: a block a row (or a group of a row). Entries rank by a 64-bit key, the bits of g above the inverted column, so
// no two are equal and ties go to the lower column. Histograms of the keys' leading bits, 11 at a time, find a bound that at
// least k and at most `capacity` entries reach; those are collected and sorted. The order of collection does not matter.
#include "common.cuh"

#define DIGIT 11
#define BINS (1 << DIGIT)

// 0 for what may not be chosen. g > 0 makes its bits ordered like its value; the sign bit makes room for one more digit bit.
__device__ inline u64 key_of(const TopK& o, const float* x, u64 c) {
    const float v = o.abs ? fabsf(x[c]) : x[c];
    const float g = present(o.scale) ? product(v, at<float>(o.scale)[c]) : v;
    if (!(g > 0.0f) || !unmasked(o.mask, c)) return 0;
    return (u64)((u32)__float_as_int(g) << 1) << 32 | (EMPTY - (u32)c);
}

// Sorts `count` keys in descending order; every comparison puts the larger at the lower place, so places past the end count as 0.
__device__ inline void sort_descending(u64* keys, u32 count) {
    u32 size = 1;
    while (size < count) size <<= 1;
    for (u32 run = 2; run <= size; run <<= 1) {
        for (u32 step = run >> 1, mirror = run - 1; step > 0; step >>= 1, mirror = 0) {
            __syncthreads();
            for (u32 t = threadIdx.x; t < size / 2; t += blockDim.x) {
                const u32 low = t / step * 2 * step + t % step, high = mirror ? low ^ mirror : low + step;
                if (high < count && keys[low] < keys[high]) {
                    const u64 swap = keys[low];
                    keys[low] = keys[high];
                    keys[high] = swap;
                }
            }
        }
    }
    __syncthreads();
}

// Block of 256. `capacity` >= k entries of `overflow` a block, or of shared memory when it is null.
extern "C" __global__ void __launch_bounds__(256) op_topk(TopK o, u32 capacity, u64* overflow) {
    DYNAMIC_SHARED(u64, shared);
    __shared__ u32 bins[BINS];
    __shared__ u32 count, chosen_bin, reaching;
    u64* kept = overflow ? overflow + (u64)blockIdx.x * capacity : shared;
    const u64 width = o.x.cols / o.groups, k = o.vals.cols / o.groups;
    for (u64 job = blockIdx.x; job < o.x.rows * o.groups; job += gridDim.x) {
        const u64 r = job / o.groups, first = job % o.groups * width, last = first + width;
        const float* x = at<float>(o.x) + r * o.x.ld;
        u64 bound = 1;  // keys >= bound are collected
        if (width > capacity) {
            u64 prefix = 0;
            u32 above = 0;  // keys that reach past the prefix
            for (int shift = 64 - DIGIT;; shift -= DIGIT) {
                const int low = shift < 0 ? 0 : shift, bits = shift < 0 ? DIGIT + shift : DIGIT;
                for (u32 i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
                __syncthreads();
                for (u64 c = first + threadIdx.x; c < last; c += blockDim.x) {
                    const u64 key = key_of(o, x, c);
                    if (key && (shift == 64 - DIGIT || key >> (low + bits) == prefix))
                        atomicAdd(&bins[key >> low & ((1u << bits) - 1)], 1u);
                }
                __syncthreads();
                // Thread t owns bins 8t..8t+8 from the top; the one in which the k-th key falls says so.
                u32 own = 0, total;
                for (int i = 0; i < BINS / 256; i++) own += bins[BINS - 1 - (threadIdx.x * (BINS / 256) + i)];
                u32 before = above + block_before(own, total);
                if (threadIdx.x == 0) chosen_bin = EMPTY;
                __syncthreads();
                for (int i = 0; i < BINS / 256; i++) {
                    const u32 bin = BINS - 1 - (threadIdx.x * (BINS / 256) + i);
                    if (before < k && before + bins[bin] >= k) {
                        chosen_bin = bin;
                        reaching = before + bins[bin];
                        count = before;
                    }
                    before += bins[bin];
                }
                __syncthreads();
                const u32 bin = chosen_bin, reach = reaching;
                above = bin == EMPTY ? 0 : count;
                __syncthreads();
                if (bin == EMPTY) {  // fewer than k in all, which is at most the capacity
                    bound = 1;
                    break;
                }
                prefix = prefix << bits | bin;
                bound = low == 0 ? prefix : prefix << low;
                if (reach <= capacity || low == 0) break;
            }
        }
        if (threadIdx.x == 0) count = 0;
        __syncthreads();
        for (u64 c = first + threadIdx.x; k > 0 && c < last; c += blockDim.x) {
            const u64 key = key_of(o, x, c);
            if (key >= bound && key) kept[atomicAdd(&count, 1u)] = key;
        }
        __syncthreads();
        const u32 found = count;
        sort_descending(kept, found);
        for (u64 slot = threadIdx.x; slot < k; slot += blockDim.x) {
            const u32 c = slot < found ? EMPTY - (u32)kept[slot] : EMPTY;
            at<float>(o.vals)[r * o.vals.ld + job % o.groups * k + slot] = c == EMPTY ? 0.0f : x[c];
            at<u32>(o.idx)[r * o.idx.ld + job % o.groups * k + slot] = c;
        }
        __syncthreads();
    }
}
KERNEL(op_topk);
