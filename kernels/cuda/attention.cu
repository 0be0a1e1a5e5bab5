// Attention forward: a block takes QUERIES queries of one head of one sequence and walks over the keys in tiles of 32 with a
// running maximum and sum (no score matrix in memory). Warp w owns PER_WARP queries; within a tile lane j owns key j for the
// scores and the columns j, j + 32, .. for the values. The optional pattern is written by a second walk.
#include "tiles.cuh"

#define KEYS 32
#define WARPS 4
#define PER_WARP 4
#define QUERIES (WARPS * PER_WARP)

// Score of query i with key j, -inf where masked.
__device__ inline float score(const Attention& o, const float* q, const float* k, u64 i, u64 j) {
    const bool seen = j <= i && (o.window == 0 || j + o.window > i);
    if (!seen || i >= o.len) return -F32_INF;
    const float s = o.scale * dot(q, k, (u32)o.d_head);
    return o.soft_cap > 0.0f ? o.soft_cap * tanhf(s / o.soft_cap) : s;
}

extern "C" __global__ void __launch_bounds__(128) op_attention(Attention o) {
    DYNAMIC_SHARED(float, shared);
    const u32 dk = (u32)o.d_head, dv = (u32)o.d_value, k_stride = dk + 1;
    float *q = shared, *k = q + QUERIES * dk, *v = k + KEYS * k_stride, *z = v + KEYS * dv, *p = z + QUERIES * dv;
    const u64 tiles = (o.len + QUERIES - 1) / QUERIES;
    const u64 i0 = blockIdx.x % tiles * QUERIES, bh = blockIdx.x / tiles, h = bh % o.heads, base = bh / o.heads * o.len;
    const u64 kv = h / (o.heads / o.kv_heads);
    const u64 i_end = i0 + QUERIES < o.len ? i0 + QUERIES : o.len;
    const u64 first = o.window == 0 || i0 + 1 < o.window ? 0 : i0 + 1 - o.window;
    const u64 first_tile = first / KEYS * KEYS;
    const int mine = warp() * PER_WARP;
    stage(q, dk, QUERIES, o.q, base + i0, base + o.len, h * dk, dk);
    for (u32 i = threadIdx.x; i < QUERIES * dv; i += blockDim.x) z[i] = 0.0f;
    float top[PER_WARP], sum[PER_WARP];
    for (int a = 0; a < PER_WARP; a++) top[a] = -F32_INF, sum[a] = 0.0f;

    for (u64 j0 = first_tile; j0 < i_end; j0 += KEYS) {
        __syncthreads();
        stage(k, k_stride, KEYS, o.k, base + j0, base + o.len, kv * dk, dk);
        stage(v, dv, KEYS, o.v, base + j0, base + o.len, kv * dv, dv);
        __syncthreads();
        float shrink[PER_WARP];
        for (int a = 0; a < PER_WARP; a++) {
            const float s = score(o, q + (mine + a) * dk, k + lane() * k_stride, i0 + mine + a, j0 + lane());
            const float higher = fmaxf(top[a], warp_all<Larger>(s));
            // While a query has seen no key its maximum is -inf, and nothing is to be added.
            const float weight = s == -F32_INF ? 0.0f : expf(s - higher);
            shrink[a] = top[a] == -F32_INF ? 0.0f : expf(top[a] - higher);
            sum[a] = sum[a] * shrink[a] + warp_all<Plus>(weight);
            top[a] = higher;
            p[(mine + a) * KEYS + lane()] = weight;
        }
        __syncwarp();
        for (u32 e = lane(); e < dv; e += 32) {
            float add[PER_WARP] = {};
            for (int j = 0; j < KEYS; j++)
                for (int a = 0; a < PER_WARP; a++) add[a] += p[(mine + a) * KEYS + j] * v[j * dv + e];
            for (int a = 0; a < PER_WARP; a++) z[(mine + a) * dv + e] = z[(mine + a) * dv + e] * shrink[a] + add[a];
        }
    }
    for (int a = 0; a < PER_WARP; a++) {
        const u64 i = i0 + mine + a;
        if (i >= o.len) break;
        for (u32 e = lane(); e < dv; e += 32) at<float>(o.z)[(base + i) * o.z.ld + h * dv + e] = z[(mine + a) * dv + e] / sum[a];
    }
    if (!present(o.pattern)) return;
    for (u64 j0 = 0; j0 < o.len; j0 += KEYS) {
        __syncthreads();
        stage(k, k_stride, KEYS, o.k, base + j0, base + o.len, kv * dk, dk);
        __syncthreads();
        for (int a = 0; a < PER_WARP; a++) {
            const u64 i = i0 + mine + a, j = j0 + lane();
            if (i >= o.len || j >= o.len) continue;
            const float s = score(o, q + (mine + a) * dk, k + lane() * k_stride, i, j);
            at<float>(o.pattern)[(bh * o.len + i) * o.pattern.ld + j] = s == -F32_INF ? 0.0f : expf(s - top[a]) / sum[a];
        }
    }
}
KERNEL(op_attention);
