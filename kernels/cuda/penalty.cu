// Penalty and ThresholdPenalty.
#include "common.cuh"

enum { POWER = 0, TANH = 1, TANH_VALUE = 2, POWER_SUM = 3 };

// Column of a slot; slots of a dense row (no idx) are its columns.
__device__ inline u32 penalty_column(const Sparse& codes, u64 slot, Failure* failure) {
    return present(codes.idx) ? column_in(codes, slot, failure, TAG_PENALTY) : (u32)slot;
}

// A block a row: the total first, because the slope of the norm needs it.
extern "C" __global__ void op_penalty(Penalty o, Failure* failure) {
    const u64 r = blockIdx.x;
    const bool dense = !present(o.codes.idx);
    // Dense rows may lie apart, so their slots count from the first element of the row.
    const Range range = dense ? Range{0, o.codes.n} : slots_of(o.codes, r);
    const float* vals = at<float>(o.codes.vals) + (dense ? r * o.codes.vals.ld : 0);
    float* du = at<float>(o.du) + (dense ? r * o.du.ld : 0);
    float sum = 0.0f;
    for (u64 slot = range.first + threadIdx.x; slot < range.last; slot += blockDim.x) {
        const u32 f = penalty_column(o.codes, slot, failure);
        if (f == EMPTY) continue;
        const float u = vals[slot] * or_else(o.scale, f, 1.0f);
        if (o.kind == POWER || o.kind == POWER_SUM) sum += powf(fabsf(u), o.p);
        else if (o.kind == TANH) sum += or_else(o.colgain, f, 1.0f) * tanhf(o.c * u);
    }
    sum = block_all<Plus>(sum);
    const float total = o.kind == POWER ? powf(sum, 1.0f / o.p) : sum;
    const float weight = present(o.weight) ? at<float>(o.weight)[r * o.weight.ld] : 1.0f;
    for (u64 slot = range.first + threadIdx.x; slot < range.last; slot += blockDim.x) {
        const u32 f = penalty_column(o.codes, slot, failure);
        float d = 0.0f;
        if (f != EMPTY) {
            const float u = vals[slot] * or_else(o.scale, f, 1.0f);
            const float sign = u > 0.0f ? 1.0f : -1.0f;
            float slope;
            if (o.kind == TANH || o.kind == TANH_VALUE) {
                const float t = tanhf(o.c * u);
                slope = o.kind == TANH_VALUE ? t : o.c * (1.0f - t * t);
            } else if (u == 0.0f) {
                slope = 0.0f;
            } else {
                slope = o.kind == POWER ? sign * powf(fabsf(u) / total, o.p - 1.0f) : sign * o.p * powf(fabsf(u), o.p - 1.0f);
            }
            d = o.kind == TANH_VALUE ? slope : weight * or_else(o.colgain, f, 1.0f) * slope;
        }
        du[slot] = d;
    }
    if (present(o.out) && threadIdx.x == 0) at<float>(o.out)[r * o.out.ld] = total;
}
KERNEL(op_penalty);

__device__ inline float threshold_gate(const ThresholdPenalty& o, float x, float n) { return o.gated ? product(x, n) : x; }

// A block a row: out and dx.
extern "C" __global__ void op_threshold_penalty_rows(ThresholdPenalty o) {
    const u64 r = blockIdx.x;
    const float weight = at<float>(o.weight)[r * o.weight.ld];
    float sum = 0.0f;
    for (u64 c = threadIdx.x; c < o.x.cols; c += blockDim.x) {
        const float n = or_else(o.scale, c, 1.0f), theta = at<float>(o.theta)[c];
        const float g = threshold_gate(o, at<float>(o.x)[r * o.x.ld + c], n);
        if (!(theta > g)) continue;
        sum += (theta - g) * n;
        if (present(o.dx)) at<float>(o.dx)[r * o.dx.ld + c] -= weight * n * (o.gated ? n : 1.0f);
    }
    sum = block_all<Plus>(sum);
    if (threadIdx.x == 0) at<float>(o.out)[r * o.out.ld] = sum;
}
KERNEL(op_threshold_penalty_rows);

// Block (32, 8): partial dtheta, then partial dn, each [splits, cols]; op_add_partial adds them up.
extern "C" __global__ void op_threshold_penalty_columns(ThresholdPenalty o, float* partial) {
    __shared__ float part[2][8][33];
    const u64 c = (u64)blockIdx.x * 32 + threadIdx.x;
    const u64 run = (o.x.rows + gridDim.y - 1) / gridDim.y, first = run * blockIdx.y;
    const u64 last = first + run < o.x.rows ? first + run : o.x.rows;
    float dtheta = 0.0f, dn = 0.0f;
    if (c < o.x.cols) {
        const float n = or_else(o.scale, c, 1.0f), theta = at<float>(o.theta)[c];
        for (u64 r = first + threadIdx.y; r < last; r += 8) {
            const float x = at<float>(o.x)[r * o.x.ld + c], g = threshold_gate(o, x, n);
            if (!(theta > g)) continue;
            const float w = at<float>(o.weight)[r * o.weight.ld];
            dtheta += w * n;
            dn += w * ((theta - g) - (o.gated ? x * n : 0.0f));
        }
    }
    part[0][threadIdx.y][threadIdx.x] = dtheta;
    part[1][threadIdx.y][threadIdx.x] = dn;
    __syncthreads();
    if (threadIdx.y < 2 && c < o.x.cols) {
        float sum = part[threadIdx.y][0][threadIdx.x];
        for (int i = 1; i < 8; i++) sum += part[threadIdx.y][i][threadIdx.x];
        partial[((u64)threadIdx.y * gridDim.y + blockIdx.y) * o.x.cols + c] = sum;
    }
}
KERNEL(op_threshold_penalty_columns);
