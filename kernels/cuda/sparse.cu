// Products with sparse codes: SparseMul, SparseDot, Scatter, Confine. Entries of a row are taken in order.
#include "common.cuh"

#define CHUNK 256  // entries staged at a time; the largest block
#define WIDE 4     // columns a thread

// A block a row and WIDE·blockDim columns of y.
extern "C" __global__ void __launch_bounds__(256) op_sparse_mul(SparseMul o, Failure* failure) {
    __shared__ float val[CHUNK];
    __shared__ u32 column[CHUNK];
    const u64 r = blockIdx.x, width = o.y.cols, c0 = (u64)blockIdx.y * blockDim.x * WIDE + threadIdx.x;
    const Range range = slots_of(o.s, r);
    float sum[WIDE] = {};
    for (u64 base = range.first; base < range.last; base += blockDim.x) {
        const u64 slot = base + threadIdx.x;
        __syncthreads();
        if (slot < range.last) {
            column[threadIdx.x] = column_in(o.s, slot, failure, TAG_SPARSE_MUL);
            val[threadIdx.x] = at<float>(o.s.vals)[slot];
        }
        __syncthreads();
        const u32 count = range.last - base < blockDim.x ? (u32)(range.last - base) : blockDim.x;
        for (u32 e = 0; e < count; e++) {
            if (column[e] == EMPTY) continue;
            const float* w = at<float>(o.w) + column[e] * o.w.ld;
            for (int i = 0; i < WIDE; i++) {
                const u64 c = c0 + i * blockDim.x;
                if (c < width) sum[i] += val[e] * w[c];
            }
        }
    }
    for (int i = 0; i < WIDE; i++) {
        const u64 c = c0 + i * blockDim.x;
        if (c >= width) break;
        float* y = at<float>(o.y) + r * o.y.ld + c;
        *y = (o.beta == 0.0f ? 0.0f : o.beta * *y) + sum[i] + or_else(o.bias, c, 0.0f);
    }
}
KERNEL(op_sparse_mul);

// A block a row, a warp a slot.
extern "C" __global__ void op_sparse_dot(SparseDot o, Failure* failure) {
    const u64 r = blockIdx.x;
    const Range range = slots_of(o.s, r);
    const float* x = at<float>(o.x) + r * o.x.ld;
    for (u64 slot = range.first + warp(); slot < range.last; slot += blockDim.x / 32) {
        const u32 f = column_in(o.s, slot, failure, TAG_SPARSE_DOT);
        float sum = 0.0f;
        if (f != EMPTY) {
            const float* w = at<float>(o.w) + f * o.w.ld;
            for (u64 c = lane(); c < o.x.cols; c += 32) sum += w[c] * x[c];
        }
        sum = warp_all<Plus>(sum);
        if (lane() == 0) at<float>(o.out)[slot] = sum;
    }
}
KERNEL(op_sparse_dot);

// A block a row; a column occurs at most once in it.
extern "C" __global__ void op_scatter(Scatter o, Failure* failure) {
    const u64 r = blockIdx.x;
    float* y = at<float>(o.y) + r * o.y.ld;
    for (u64 c = threadIdx.x; c < o.y.cols; c += blockDim.x) y[c] = o.beta == 0.0f ? 0.0f : o.beta * y[c];
    __syncthreads();
    const Range range = slots_of(o.s, r);
    for (u64 slot = range.first + threadIdx.x; slot < range.last; slot += blockDim.x) {
        const u32 f = column_in(o.s, slot, failure, TAG_SCATTER);
        if (f != EMPTY) y[f] += at<float>(o.s.vals)[slot];
    }
}
KERNEL(op_scatter);

// A thread a slot.
extern "C" __global__ void op_confine(Confine o, Failure* failure) {
    const Range all = all_slots(o.s);
    for (u64 slot = all.first + (u64)blockIdx.x * blockDim.x + threadIdx.x; slot < all.last;
         slot += (u64)gridDim.x * blockDim.x) {
        const u32 f = column_in(o.s, slot, failure, TAG_CONFINE);
        at<u32>(o.out)[slot] = f != EMPTY && f >= o.first && f < o.last ? f - (u32)o.first : EMPTY;
    }
}
KERNEL(op_confine);
