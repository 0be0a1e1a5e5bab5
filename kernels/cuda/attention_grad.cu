// AttentionGrad in three kernels, p recomputed in each, no atomics: per query the logarithm of the sum of exponentials and
// Σ p·dp; then dq with a block owning queries; then dk and dv with a block owning keys. Tiles as in attention.cu: a warp owns
// OWN rows, the lanes are the 32 rows of the other side.
#include "tiles.cuh"

#define OTHERS 32
#define WARPS 4
#define OWN 4
#define ROWS (WARPS * OWN)

struct Head { u64 row0, base, h; };
// Which rows of which head this block owns.
__device__ inline Head owned(const AttentionGrad& o) {
    const u64 tiles = (o.len + ROWS - 1) / ROWS, bh = blockIdx.x / tiles;
    return {blockIdx.x % tiles * ROWS, bh / o.heads * o.len, bh % o.heads};
}

// lse, mean [batch·heads·len]
extern "C" __global__ void __launch_bounds__(128) op_attention_grad_rows(AttentionGrad o, float* lse, float* mean) {
    DYNAMIC_SHARED(float, shared);
    const u32 dk = (u32)o.d_head, dv = (u32)o.d_value;
    float *q = shared, *dz = q + ROWS * dk, *k = dz + ROWS * dv, *v = k + OTHERS * (dk + 1);
    const Head b = owned(o);
    const u64 end = b.base + o.len;
    const int mine = warp() * OWN;
    stage(q, dk, ROWS, o.q, b.base + b.row0, end, b.h * dk, dk);
    stage(dz, dv, ROWS, o.dz, b.base + b.row0, end, b.h * dv, dv);
    float top[OWN], sum[OWN], weighted[OWN];
    for (int a = 0; a < OWN; a++) top[a] = -F32_INF, sum[a] = 0.0f, weighted[a] = 0.0f;
    for (u64 j0 = 0; j0 < b.row0 + ROWS && j0 < o.len; j0 += OTHERS) {
        __syncthreads();
        stage(k, dk + 1, OTHERS, o.k, b.base + j0, end, b.h * dk, dk);
        stage(v, dv + 1, OTHERS, o.v, b.base + j0, end, b.h * dv, dv);
        __syncthreads();
        for (int a = 0; a < OWN; a++) {
            const bool seen = j0 + lane() <= b.row0 + mine + a;
            const float s = seen ? o.scale * dot(q + (mine + a) * dk, k + lane() * (dk + 1), dk) : -F32_INF;
            const float dp = seen ? dot(dz + (mine + a) * dv, v + lane() * (dv + 1), dv) : 0.0f;
            const float higher = fmaxf(top[a], warp_all<Larger>(s));
            const float weight = seen ? expf(s - higher) : 0.0f;
            const float shrink = top[a] == -F32_INF ? 0.0f : expf(top[a] - higher);
            sum[a] = sum[a] * shrink + warp_all<Plus>(weight);
            weighted[a] = weighted[a] * shrink + warp_all<Plus>(weight * dp);
            top[a] = higher;
        }
    }
    for (int a = 0; a < OWN; a++) {
        const u64 i = b.row0 + mine + a;
        if (i < o.len && lane() == 0) {
            const u64 to = (b.base / o.len * o.heads + b.h) * o.len + i;
            lse[to] = top[a] + logf(sum[a]);
            mean[to] = weighted[a] / sum[a];
        }
    }
}
KERNEL(op_attention_grad_rows);

extern "C" __global__ void __launch_bounds__(128) op_attention_grad_queries(AttentionGrad o, const float* lse, const float* mean) {
    DYNAMIC_SHARED(float, shared);
    const u32 dk = (u32)o.d_head, dv = (u32)o.d_value;
    float *q = shared, *dz = q + ROWS * dk, *k = dz + ROWS * dv, *v = k + OTHERS * (dk + 1);
    float *dq = v + OTHERS * (dv + 1), *ds = dq + ROWS * dk;
    const Head b = owned(o);
    const u64 end = b.base + o.len, stats = (b.base / o.len * o.heads + b.h) * o.len;
    const int mine = warp() * OWN;
    stage(q, dk, ROWS, o.q, b.base + b.row0, end, b.h * dk, dk);
    stage(dz, dv, ROWS, o.dz, b.base + b.row0, end, b.h * dv, dv);
    for (u32 i = threadIdx.x; i < ROWS * dk; i += blockDim.x) dq[i] = 0.0f;
    for (u64 j0 = 0; j0 < b.row0 + ROWS && j0 < o.len; j0 += OTHERS) {
        __syncthreads();
        stage(k, dk + 1, OTHERS, o.k, b.base + j0, end, b.h * dk, dk);
        stage(v, dv + 1, OTHERS, o.v, b.base + j0, end, b.h * dv, dv);
        __syncthreads();
        for (int a = 0; a < OWN; a++) {
            const u64 i = b.row0 + mine + a;
            float d = 0.0f;
            if (i < o.len && j0 + lane() <= i) {
                const float p = expf(o.scale * dot(q + (mine + a) * dk, k + lane() * (dk + 1), dk) - lse[stats + i]);
                d = o.scale * p * (dot(dz + (mine + a) * dv, v + lane() * (dv + 1), dv) - mean[stats + i]);
            }
            ds[(mine + a) * OTHERS + lane()] = d;
        }
        __syncwarp();
        for (u32 e = lane(); e < dk; e += 32)
            for (int a = 0; a < OWN; a++)
                for (int j = 0; j < OTHERS; j++) dq[(mine + a) * dk + e] += ds[(mine + a) * OTHERS + j] * k[j * (dk + 1) + e];
    }
    for (int a = 0; a < OWN && b.row0 + mine + a < o.len; a++)
        for (u32 e = lane(); e < dk; e += 32)
            at<float>(o.dq)[(b.base + b.row0 + mine + a) * o.dq.ld + b.h * dk + e] = dq[(mine + a) * dk + e];
}
KERNEL(op_attention_grad_queries);

extern "C" __global__ void __launch_bounds__(128) op_attention_grad_keys(AttentionGrad o, const float* lse, const float* mean) {
    DYNAMIC_SHARED(float, shared);
    const u32 dk = (u32)o.d_head, dv = (u32)o.d_value;
    float *k = shared, *v = k + ROWS * dk, *q = v + ROWS * dv, *dz = q + OTHERS * (dk + 1);
    float *grad_k = dz + OTHERS * (dv + 1), *grad_v = grad_k + ROWS * dk, *ds = grad_v + ROWS * dv, *p = ds + ROWS * OTHERS;
    const Head b = owned(o);
    const u64 end = b.base + o.len, stats = (b.base / o.len * o.heads + b.h) * o.len;
    const int mine = warp() * OWN;
    stage(k, dk, ROWS, o.k, b.base + b.row0, end, b.h * dk, dk);
    stage(v, dv, ROWS, o.v, b.base + b.row0, end, b.h * dv, dv);
    for (u32 i = threadIdx.x; i < ROWS * (dk + dv); i += blockDim.x) grad_k[i] = 0.0f;
    for (u64 i0 = b.row0 / OTHERS * OTHERS; i0 < o.len; i0 += OTHERS) {
        __syncthreads();
        stage(q, dk + 1, OTHERS, o.q, b.base + i0, end, b.h * dk, dk);
        stage(dz, dv + 1, OTHERS, o.dz, b.base + i0, end, b.h * dv, dv);
        __syncthreads();
        for (int a = 0; a < OWN; a++) {
            const u64 i = i0 + lane(), j = b.row0 + mine + a;
            float weight = 0.0f, d = 0.0f;
            if (i < o.len && j <= i) {
                weight = expf(o.scale * dot(k + (mine + a) * dk, q + lane() * (dk + 1), dk) - lse[stats + i]);
                d = o.scale * weight * (dot(v + (mine + a) * dv, dz + lane() * (dv + 1), dv) - mean[stats + i]);
            }
            ds[(mine + a) * OTHERS + lane()] = d;
            p[(mine + a) * OTHERS + lane()] = weight;
        }
        __syncwarp();
        for (int a = 0; a < OWN; a++) {
            for (u32 e = lane(); e < dk; e += 32)
                for (int i = 0; i < OTHERS; i++) grad_k[(mine + a) * dk + e] += ds[(mine + a) * OTHERS + i] * q[i * (dk + 1) + e];
            for (u32 e = lane(); e < dv; e += 32)
                for (int i = 0; i < OTHERS; i++) grad_v[(mine + a) * dv + e] += p[(mine + a) * OTHERS + i] * dz[i * (dv + 1) + e];
        }
    }
    for (int a = 0; a < OWN && b.row0 + mine + a < o.len; a++) {
        const u64 row = b.base + b.row0 + mine + a;
        for (u32 e = lane(); e < dk; e += 32) at<float>(o.dk)[row * o.dk.ld + b.h * dk + e] = grad_k[(mine + a) * dk + e];
        for (u32 e = lane(); e < dv; e += 32) at<float>(o.dv)[row * o.dv.ld + b.h * dv + e] = grad_v[(mine + a) * dv + e];
    }
}
KERNEL(op_attention_grad_keys);
