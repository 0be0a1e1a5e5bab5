// Reduce: over columns, a block a row; over rows, tiles of 32 columns with the rows split between blocks by shape, their
// partial results combined in order by a second kernel.
#include "common.cuh"

enum { SUM = 0, SUM_SQ = 1, MAX = 2, NON_ZERO = 3 };

__device__ inline float nothing(u32 kind) { return kind == MAX ? -F32_INF : 0.0f; }
__device__ inline float combined(u32 kind, float a, float b) { return kind == MAX ? fmaxf(a, b) : a + b; }
__device__ inline float contribution(u32 kind, float x, float w) {
    switch (kind) {
        case SUM_SQ: return w * x * x;
        case NON_ZERO: return x != 0.0f ? w : 0.0f;
        default: return w * x;
    }
}
__device__ inline void finish(const Reduce& o, u64 i, float total) {
    float* y = at<float>(o.y) + i;
    *y = (o.beta == 0.0f ? 0.0f : o.beta * *y) + total;
}

extern "C" __global__ void op_reduce_columns(Reduce o) {
    const u64 r = blockIdx.x;
    const float* x = at<float>(o.x) + r * o.x.ld;
    float total = nothing(o.kind);
    for (u64 c = threadIdx.x; c < o.x.cols; c += blockDim.x) total = combined(o.kind, total, contribution(o.kind, x[c], 1.0f));
    total = o.kind == MAX ? block_all<Larger>(total) : block_all<Plus>(total);
    if (threadIdx.x == 0) finish(o, r * o.y.ld, total);
}
KERNEL(op_reduce_columns);

// Block (32, 8). Split blockIdx.y of gridDim.y takes an equal run of rows; with one split the result is final, otherwise
// it goes to partial [splits, cols].
extern "C" __global__ void op_reduce_rows(Reduce o, float* partial) {
    __shared__ float part[8][33];
    const u64 c = (u64)blockIdx.x * 32 + threadIdx.x;
    const u64 run = (o.x.rows + gridDim.y - 1) / gridDim.y, first = run * blockIdx.y;
    const u64 last = first + run < o.x.rows ? first + run : o.x.rows;
    float total = nothing(o.kind);
    if (c < o.x.cols) {
        for (u64 r = first + threadIdx.y; r < last; r += 8) {
            const float w = present(o.weight) ? at<float>(o.weight)[r * o.weight.ld] : 1.0f;
            total = combined(o.kind, total, contribution(o.kind, at<float>(o.x)[r * o.x.ld + c], w));
        }
    }
    part[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y == 0 && c < o.x.cols) {
        total = part[0][threadIdx.x];
        for (int i = 1; i < 8; i++) total = combined(o.kind, total, part[i][threadIdx.x]);
        if (gridDim.y == 1) finish(o, c, total);
        else partial[blockIdx.y * o.x.cols + c] = total;
    }
}
KERNEL(op_reduce_rows);

extern "C" __global__ void op_reduce_rows_end(Reduce o, const float* partial, u32 splits) {
    const u64 c = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= o.x.cols) return;
    float total = partial[c];
    for (u32 s = 1; s < splits; s++) total = combined(o.kind, total, partial[s * o.x.cols + c]);
    finish(o, c, total);
}
KERNEL(op_reduce_rows_end);
