// Gemm: tiles of 64 x 64 of c, one block each, a 4 x 4 patch a thread, 16 of the inner dimension at a time through shared
// memory. Any transposition and float types; sums in f32 in the order of the inner dimension. Serves where cuBLASLt is absent.
#include "functions.cuh"

#define TILE 64
#define DEPTH 16
#define PATCH 4

// Rows first.. of op(m) as tile[l][r], zeros outside. Neighbouring threads read neighbouring addresses for either flag.
__device__ inline void load_tile(float (*tile)[TILE + PATCH], const Mat& m, u64 base, bool by_inner, u64 first, u64 rows,
                                 u64 l0, u64 inner) {
    for (int i = threadIdx.x; i < DEPTH * TILE; i += blockDim.x) {
        const int l = by_inner ? i / TILE : i % DEPTH, r = by_inner ? i % TILE : i / DEPTH;
        const u64 row = first + r, at_l = l0 + l;
        const bool inside = row < rows && at_l < inner;
        tile[l][r] = inside ? load_float(m, base + (by_inner ? at_l * m.ld + row : row * m.ld + at_l)) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(256) op_gemm(Gemm o) {
    __shared__ float as[DEPTH][TILE + PATCH], bs[DEPTH][TILE + PATCH];
    const u64 m = o.c.rows, n = o.c.cols, inner = o.ta ? o.a.rows : o.a.cols;
    const u64 row0 = (u64)blockIdx.y * TILE, col0 = (u64)blockIdx.x * TILE;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    for (u64 batch = blockIdx.z; batch < o.batch; batch += gridDim.z) {
        float sum[PATCH][PATCH] = {};
        for (u64 l0 = 0; l0 < inner; l0 += DEPTH) {
            __syncthreads();
            load_tile(as, o.a, batch * o.stride_a, o.ta == 1, row0, m, l0, inner);
            load_tile(bs, o.b, batch * o.stride_b, o.tb == 0, col0, n, l0, inner);
            __syncthreads();
            for (int l = 0; l < DEPTH; l++) {
                float x[PATCH], y[PATCH];
                for (int i = 0; i < PATCH; i++) {
                    x[i] = as[l][ty * PATCH + i];
                    y[i] = bs[l][tx * PATCH + i];
                }
                for (int i = 0; i < PATCH; i++)
                    for (int j = 0; j < PATCH; j++) sum[i][j] += x[i] * y[j];
            }
        }
        for (int i = 0; i < PATCH; i++) {
            for (int j = 0; j < PATCH; j++) {
                const u64 r = row0 + ty * PATCH + i, c = col0 + tx * PATCH + j;
                if (r >= m || c >= n) continue;
                float* out = at<float>(o.c) + batch * o.stride_c + r * o.c.ld + c;
                const float old = o.beta == 0.0f ? 0.0f : o.beta * *out;
                *out = activate(o.act, o.alpha * sum[i][j] + old + or_else(o.bias, c, 0.0f));
            }
        }
    }
}
KERNEL(op_gemm);
