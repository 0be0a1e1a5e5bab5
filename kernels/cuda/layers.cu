// Norm, CrossEntropy, Rope: the pieces of a transformer beside products and attention.
#include "common.cuh"

// A block a row. The variance is summed after the mean, from the differences.
extern "C" __global__ void op_norm(Norm o) {
    const u64 r = blockIdx.x, width = o.x.cols;
    const float* x = at<float>(o.x) + r * o.x.ld;
    float* y = at<float>(o.y) + r * o.y.ld;
    float mean = 0.0f;
    if (!o.rms) {
        float sum = 0.0f;
        for (u64 c = threadIdx.x; c < width; c += blockDim.x) sum += x[c];
        mean = block_all<Plus>(sum) / (float)width;
    }
    float squares = 0.0f;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) squares += (x[c] - mean) * (x[c] - mean);
    const float s = sqrtf(block_all<Plus>(squares) / (float)width + o.eps);
    const float offset = o.rms ? o.gain_offset : 0.0f;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x)
        y[c] = (x[c] - mean) / s * (or_else(o.gain, c, 1.0f) + offset) + or_else(o.bias, c, 0.0f);
    if (present(o.scale) && threadIdx.x == 0) at<float>(o.scale)[r * o.scale.ld] = s;
}
KERNEL(op_norm);

extern "C" __global__ void op_cross_entropy(CrossEntropy o, Failure* failure) {
    const u64 r = blockIdx.x;
    const u32 target = at<u32>(o.target)[r];
    const float* x = at<float>(o.logits) + r * o.logits.ld;
    float* loss = at<float>(o.loss) + r;
    if (target == EMPTY || target >= o.logits.cols) {  // the same for the whole block
        if (threadIdx.x == 0) {
            if (target != EMPTY) fail(failure, TAG_CROSS_ENTROPY, target, o.logits.cols);
            *loss = 0.0f;
        }
        return;
    }
    float top = -F32_INF;
    for (u64 c = threadIdx.x; c < o.logits.cols; c += blockDim.x) top = fmaxf(top, x[c]);
    top = block_all<Larger>(top);
    float sum = 0.0f;
    for (u64 c = threadIdx.x; c < o.logits.cols; c += blockDim.x) sum += expf(x[c] - top);
    sum = block_all<Plus>(sum);
    if (threadIdx.x == 0) *loss = logf(sum) + (top - x[target]);
}
KERNEL(op_cross_entropy);

// A thread a pair of coordinates.
extern "C" __global__ void op_rope(Rope o, Failure* failure) {
    const u64 half = o.rotary_dim / 2;
    FOR_ELEMENTS(r, p, o.x.rows, o.heads * half) {
        const u64 h = p / half, j = p % half;
        const u32 pos = at<u32>(o.pos)[r];
        if (pos >= o.cos.rows) {
            fail(failure, TAG_ROPE, pos, o.cos.rows);
            continue;
        }
        float* x = at<float>(o.x) + r * o.x.ld + h * o.d_head;
        const u64 i0 = o.adjacent ? 2 * j : j, i1 = o.adjacent ? 2 * j + 1 : j + half;
        const float u = x[i0], w = x[i1];
        const float cos = at<float>(o.cos)[pos * o.cos.ld + j];
        const float sin = o.inverse ? -at<float>(o.sin)[pos * o.sin.ld + j] : at<float>(o.sin)[pos * o.sin.ld + j];
        x[i0] = u * cos - w * sin;
        x[i1] = w * cos + u * sin;
    }
}
KERNEL(op_rope);
