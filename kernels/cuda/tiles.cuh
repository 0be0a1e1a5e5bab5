// Tiles of rows in shared memory, for attention and its gradient.
#pragma once
#include "common.cuh"

// Rows first.. of columns col..col + width of m into tile [rows][stride]; zeros from row `last` on.
__device__ inline void stage(float* tile, u32 stride, u32 rows, const Mat& m, u64 first, u64 last, u64 col, u32 width) {
    for (u32 i = threadIdx.x; i < rows * width; i += blockDim.x) {
        const u32 r = i / width, e = i % width;
        tile[r * stride + e] = first + r < last ? at<float>(m)[(first + r) * m.ld + col + e] : 0.0f;
    }
}

__device__ inline float dot(const float* a, const float* b, u32 n) {
    float sum = 0.0f;
    for (u32 e = 0; e < n; e++) sum += a[e] * b[e];
    return sum;
}
