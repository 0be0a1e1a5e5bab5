// Activity, Age, Adam, Random.
#include "common.cuh"

// Sparse codes: a block a row.
extern "C" __global__ void op_activity_sparse(Activity o, Failure* failure) {
    const u64 r = blockIdx.x;
    if (!unmasked(o.mask, r)) return;
    const Range range = slots_of(o.codes, r);
    for (u64 slot = range.first + threadIdx.x; slot < range.last; slot += blockDim.x) {
        const u32 f = column_in(o.codes, slot, failure, TAG_ACTIVITY);
        if (f != EMPTY && fabsf(at<float>(o.codes.vals)[slot]) > 0.0f) atomicAdd(&at<u32>(o.fired)[f], 1u);
    }
}
KERNEL(op_activity_sparse);

// Dense codes: a thread a column, blockIdx.y takes every gridDim.y-th row.
extern "C" __global__ void op_activity_dense(Activity o) {
    const u64 c = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= o.codes.n) return;
    u32 count = 0;
    for (u64 r = blockIdx.y; r < o.codes.rows; r += gridDim.y)
        count += unmasked(o.mask, r) && fabsf(at<float>(o.codes.vals)[r * o.codes.vals.ld + c]) > 0.0f;
    if (count) atomicAdd(&at<u32>(o.fired)[c], count);
}
KERNEL(op_activity_dense);

extern "C" __global__ void op_age(Age o) {
    const u64 c = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= o.fired.cols) return;
    const u32 old = at<u32>(o.since)[c], sum = old + o.tokens;
    const u32 since = at<u32>(o.fired)[c] > 0 ? 0 : (sum < old ? EMPTY : sum);
    at<u32>(o.since)[c] = since;
    at<u8>(o.dead)[c] = since >= o.limit;
}
KERNEL(op_age);

// partial [blocks, 2], only with stats: a block's Σ g² and number of g ≠ 0.
extern "C" __global__ void op_adam(Adam o, float* partial) {
    const float root = sqrtf(o.bc2);
    float squares = 0.0f, touched = 0.0f;
    FOR_ELEMENTS(r, c, o.p.rows, o.p.cols) {
        float *p = at<float>(o.p) + r * o.p.ld + c, *m = at<float>(o.m) + r * o.m.ld + c, *v = at<float>(o.v) + r * o.v.ld + c;
        const float raw = at<float>(o.g)[r * o.g.ld + c], g = o.grad_scale * raw;
        const bool grows = !o.sparse || raw != 0.0f;
        squares += g * g;
        touched += raw != 0.0f ? 1.0f : 0.0f;
        const float m1 = o.beta1 * *m + (grows ? (1.0f - o.beta1) * g : 0.0f);
        const float v1 = o.beta2 * *v + (grows ? (1.0f - o.beta2) * g * g : 0.0f);
        *m = m1;
        *v = v1;
        if (!o.sparse) *p -= o.lr / o.bc1 * m1 / (sqrtf(v1) / root + o.eps);
        else if (grows) *p -= o.lr * root / o.bc1 * m1 / (sqrtf(v1) + o.eps);
        if (present(o.low)) store_float(o.low, r * o.low.ld + c, *p);
    }
    if (!partial) return;
    squares = block_all<Plus>(squares);
    touched = block_all<Plus>(touched);
    if (threadIdx.x == 0) {
        const u64 block = (u64)blockIdx.y * gridDim.x + blockIdx.x;
        partial[2 * block] = squares;
        partial[2 * block + 1] = touched;
    }
}
KERNEL(op_adam);

// One block: the sums of all blocks in f64, in an order fixed by their number.
extern "C" __global__ void op_adam_stats(Adam o, const float* partial, u64 blocks) {
    double squares = 0.0, touched = 0.0;
    for (u64 b = threadIdx.x; b < blocks; b += blockDim.x) {
        squares += partial[2 * b];
        touched += partial[2 * b + 1];
    }
    squares = block_all<Plus>(squares);
    touched = block_all<Plus>(touched);
    if (threadIdx.x == 0) {
        at<float>(o.stats)[0] = (float)squares;
        at<float>(o.stats)[1] = (float)touched;
    }
}
KERNEL(op_adam_stats);

// ---- Philox4x32-10, the numbers of kernels/src/philox.rs ----

struct Words { u32 w[4]; };
__device__ inline Words philox(u64 seed, u64 counter) {
    u32 c0 = (u32)counter, c1 = (u32)(counter >> 32), c2 = 0, c3 = 0, k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        const u32 high0 = (u32)(p0 >> 32), high1 = (u32)(p1 >> 32);
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = (u32)p1;
        c3 = (u32)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Box and Muller's pair in f64: draws 2i and 2i + 1 share the words (0, 1) or (2, 3) of their block.
__device__ inline float normal(u32 word, u32 turn, bool second) {
    const double u = ((double)word + 0.5) / 4294967296.0;
    const double angle = 6.283185307179586476925 * (double)turn / 4294967296.0;
    const double radius = sqrt(-2.0 * log(u));
    return (float)(second ? radius * sin(angle) : radius * cos(angle));
}

extern "C" __global__ void op_random(Random o) {
    FOR_ELEMENTS(r, c, o.y.rows, o.y.cols) {
        const u64 i = o.offset + r * o.y.cols + c;
        const Words words = philox(o.seed, i / 4);
        const u32 at_pair = (u32)(i % 4 / 2 * 2);
        float v;
        if (o.kind == 0) {
            const float unit = (float)(words.w[i % 4] >> 8) * (1.0f / 16777216.0f);
            v = __fadd_rn(o.a, product(difference(o.b, o.a), unit));
        } else {
            v = __fadd_rn(o.a, product(o.b, normal(words.w[at_pair], words.w[at_pair + 1], i % 2 == 1)));
        }
        at<float>(o.y)[r * o.y.ld + c] = v;
    }
}
KERNEL(op_random);
