// Threshold, Compact, Gate, GateGrad: which entries of a dense matrix pass. Decisions compare rounded f32 values, as
// runtime/src/op asks, so every device keeps the same entries.
#include "common.cuh"

#define BINS 2048

__device__ inline float gated(const Mat& x, const Mat& scale, u64 r, u64 c) {
    const float v = at<float>(x)[r * x.ld + c];
    return present(scale) ? product(v, at<float>(scale)[c]) : v;
}

// ---- Threshold: the k-th largest positive g by its bits, 11, 11 and 10 at a time ----

struct Search { u64 bins[BINS], need; u32 prefix, done; };

extern "C" __global__ void op_threshold_begin(Threshold o, Search* s) {
    for (u32 i = threadIdx.x; i < BINS; i += blockDim.x) s->bins[i] = 0;
    if (threadIdx.x > 0) return;
    s->need = o.k;
    s->prefix = 0;
    s->done = o.k == 0;
    if (o.k == 0) {  // keep nothing
        at<float>(o.out)[0] = F32_INF;
        at<u32>(o.out)[1] = 0;
    }
}
KERNEL(op_threshold_begin);

extern "C" __global__ void op_threshold_count(Threshold o, Search* s, u32 shift, u32 bits) {
    __shared__ u32 bins[BINS];
    if (s->done) return;
    for (u32 i = threadIdx.x; i < BINS; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    const u32 prefix = s->prefix;
    FOR_ELEMENTS(r, c, o.x.rows, o.x.cols) {
        const float g = gated(o.x, o.scale, r, c);
        if (!(g > 0.0f) || !unmasked(o.mask, c)) continue;
        const u64 key = (u32)__float_as_int(g);
        if (key >> (shift + bits) == prefix) atomicAdd(&bins[key >> shift & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < BINS; i += blockDim.x)
        if (bins[i]) atomicAdd(&s->bins[i], (u64)bins[i]);
}
KERNEL(op_threshold_count);

// One block of 256: finds the bin of the k-th entry, clears the bins, writes the result after the last digit.
extern "C" __global__ void op_threshold_pick(Threshold o, Search* s, u32 shift, u32 bits) {
    __shared__ u32 chosen;
    __shared__ u64 left;
    if (s->done) return;
    if (threadIdx.x == 0) chosen = EMPTY;
    const u64 need = s->need;
    u64 own = 0, total, mine[BINS / 256];
    for (int i = 0; i < BINS / 256; i++) {
        mine[i] = s->bins[BINS - 1 - (threadIdx.x * (BINS / 256) + i)];
        own += mine[i];
    }
    u64 before = block_before(own, total);
    for (int i = 0; i < BINS / 256; i++) {
        if (before < need && before + mine[i] >= need) {
            chosen = BINS - 1 - (threadIdx.x * (BINS / 256) + i);
            left = need - before;
        }
        before += mine[i];
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < BINS; i += blockDim.x) s->bins[i] = 0;
    if (threadIdx.x == 0) {
        u32* out = at<u32>(o.out);
        if (chosen == EMPTY) {  // fewer than k are positive: keep all
            out[0] = 0;
            out[1] = 0;
            s->done = 1;
        } else {
            s->prefix = s->prefix << bits | chosen;
            s->need = left;
            if (shift == 0) out[0] = s->prefix, out[1] = (u32)left;
        }
    }
}
KERNEL(op_threshold_pick);

// ---- Which entries pass: 0 no, 1 yes, 2 equal to the global threshold, which the row's share of ties decides ----

struct Bar { Mat x, scale, mask, theta, thr; };

__device__ inline int verdict(const Bar& b, float tau, u64 r, u64 c) {
    const float g = gated(b.x, b.scale, r, c);
    if (!(g > 0.0f) || !unmasked(b.mask, c)) return 0;
    if (present(b.theta)) return g > at<float>(b.theta)[c];
    if (!present(b.thr)) return 1;
    return g == tau ? 2 : g > tau;
}
__device__ inline float tau_of(const Bar& b) { return present(b.thr) ? at<float>(b.thr)[0] : 0.0f; }

struct RowCount { u32 sure, ties; u64 ties_before; };

// A block a row.
extern "C" __global__ void op_pass_count(Bar b, RowCount* rows) {
    const u64 r = blockIdx.x;
    const float tau = tau_of(b);
    u32 sure = 0, ties = 0;
    for (u64 c = threadIdx.x; c < b.x.cols; c += blockDim.x) {
        const int v = verdict(b, tau, r, c);
        sure += v == 1;
        ties += v == 2;
    }
    sure = block_all<Plus>(sure);
    ties = block_all<Plus>(ties);
    if (threadIdx.x == 0) rows[r].sure = sure, rows[r].ties = ties;
}
KERNEL(op_pass_count);

// The part of a row's ties that is kept: the first `quota` in row-major order over all rows.
__device__ inline u64 kept_ties(const RowCount& row, u64 quota) {
    const u64 left = quota > row.ties_before ? quota - row.ties_before : 0;
    return row.ties < left ? row.ties : left;
}

// One block of 256: ties before each row, and for Compact (ptr not null) the row offsets, cut to the capacity.
extern "C" __global__ void op_pass_scan(Bar b, RowCount* rows, u32* ptr, u64 capacity, Failure* failure) {
    const u64 n = b.x.rows, quota = present(b.thr) ? at<u32>(b.thr)[1] : 0;
    u64 ties_base = 0, base = 0;
    for (u64 r0 = 0; r0 < n; r0 += blockDim.x) {
        const u64 r = r0 + threadIdx.x;
        u64 ties, entries;
        const u64 ties_before = ties_base + block_before(r < n ? (u64)rows[r].ties : 0, ties);
        if (r < n) rows[r].ties_before = ties_before;
        const u64 mine = r < n ? rows[r].sure + kept_ties(rows[r], quota) : 0;
        const u64 before = base + block_before(mine, entries);
        if (ptr && r < n) ptr[r + 1] = (u32)(before + mine < capacity ? before + mine : capacity);
        ties_base += ties;
        base += entries;
    }
    if (ptr && threadIdx.x == 0) {
        ptr[0] = 0;
        if (base > capacity) fail(failure, TAG_COMPACT, base, capacity);
    }
}
KERNEL(op_pass_scan);

// A block a row, columns in order.
extern "C" __global__ void op_compact(Compact o, Bar b, const RowCount* rows) {
    const u64 r = blockIdx.x, quota = present(b.thr) ? at<u32>(b.thr)[1] : 0;
    const u32* ptr = at<u32>(o.y.ptr);
    const u64 limit = ptr[r + 1], kept = kept_ties(rows[r], quota);
    const float tau = tau_of(b);
    u64 next = ptr[r], ties_seen = 0;
    for (u64 c0 = 0; c0 < b.x.cols; c0 += blockDim.x) {
        const u64 c = c0 + threadIdx.x;
        const int v = c < b.x.cols ? verdict(b, tau, r, c) : 0;
        u32 ties, entries;
        const u64 tie = ties_seen + block_before((u32)(v == 2), ties);
        const bool passes = v == 1 || (v == 2 && tie < kept);
        const u64 slot = next + block_before((u32)passes, entries);
        if (passes && slot < limit) {
            at<float>(o.y.vals)[slot] = at<float>(b.x)[r * b.x.ld + c];
            at<u32>(o.y.idx)[slot] = (u32)c;
        }
        ties_seen += ties;
        next += entries;
    }
}
KERNEL(op_compact);

// A block a row; `rows` is null without a global threshold.
extern "C" __global__ void op_gate(Bar b, Mat y, const RowCount* rows) {
    const u64 r = blockIdx.x;
    const u64 kept = rows ? kept_ties(rows[r], at<u32>(b.thr)[1]) : 0;
    const float tau = tau_of(b);
    u64 ties_seen = 0;
    for (u64 c0 = 0; c0 < b.x.cols; c0 += blockDim.x) {
        const u64 c = c0 + threadIdx.x;
        const int v = c < b.x.cols ? verdict(b, tau, r, c) : 0;
        bool passes = v == 1;
        if (rows) {
            u32 ties;
            const u64 tie = ties_seen + block_before((u32)(v == 2), ties);
            passes = passes || (v == 2 && tie < kept);
            ties_seen += ties;
        }
        if (c < b.x.cols) at<float>(y)[r * y.ld + c] = passes ? at<float>(b.x)[r * b.x.ld + c] : 0.0f;
    }
}
KERNEL(op_gate);

// ---- GateGrad: dx, and the threshold's gradient per split of the rows (as op_reduce_rows), combined below ----

// Block (32, 8).
extern "C" __global__ void op_gate_grad(GateGrad o, float* partial) {
    __shared__ float part[8][33];
    const u64 c = (u64)blockIdx.x * 32 + threadIdx.x;
    const u64 run = (o.x.rows + gridDim.y - 1) / gridDim.y, first = run * blockIdx.y;
    const u64 last = first + run < o.x.rows ? first + run : o.x.rows;
    float sum = 0.0f;
    if (c < o.x.cols) {
        const bool jump = present(o.theta);
        const float theta = jump ? at<float>(o.theta)[c] : 0.0f;
        const float slope = jump ? -theta / o.window / or_else(o.scale, c, 1.0f) : 0.0f;
        for (u64 r = first + threadIdx.y; r < last; r += 8) {
            const float g = gated(o.x, o.scale, r, c), df = at<float>(o.df)[r * o.df.ld + c];
            if (jump && g > 0.0f && fabsf(difference(g, theta)) < o.window / 2.0f) sum += df * slope;
            at<float>(o.dx)[r * o.dx.ld + c] = g > 0.0f && (!jump || g > theta) ? df : 0.0f;
        }
    }
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (partial && threadIdx.y == 0 && c < o.x.cols) {
        for (int i = 1; i < 8; i++) sum += part[i][threadIdx.x];
        partial[blockIdx.y * o.x.cols + c] = sum;
    }
}
KERNEL(op_gate_grad);

// y [1, n] += the partial sums of each column, in order.
extern "C" __global__ void op_add_partial(float* y, const float* partial, u64 n, u32 splits) {
    const u64 c = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= n) return;
    float total = partial[c];
    for (u32 s = 1; s < splits; s++) total += partial[s * n + c];
    y[c] += total;
}
KERNEL(op_add_partial);
