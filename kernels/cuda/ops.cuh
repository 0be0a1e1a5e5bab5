// The operations as the host passes them: the `repr(C)` structs of runtime/src/op, field for field. Their contracts are
// the doc comments there. A test compares the sizes asserted below with the Rust structs.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Mat { u64 addr, rows, cols, ld; u32 dtype; };
struct Sparse { Mat vals, idx, ptr; u64 rows, n; };
struct ByColumn { Mat col_ptr, row, slot; };

struct Gemm { Mat a, b, c, bias; float alpha, beta; u32 ta, tb, act; u64 batch, stride_a, stride_b, stride_c; };
struct Copy { Mat x, y; };
struct Gather { Mat table, idx, y; };
struct Map { u32 kind; Mat x, z, y; float a, b; };
struct Reduce { u32 kind, by_row; Mat x, weight, y; float beta; };
struct Norm { Mat x, gain, bias, y, scale; float eps, gain_offset; u32 rms; };
struct CrossEntropy { Mat logits, target, loss; };
struct Rope { Mat x, pos, cos, sin; u64 heads, d_head, rotary_dim; u32 adjacent, inverse; };
struct Attention {
    Mat q, k, v, z, pattern;
    u64 batch, len, heads, kv_heads, d_head, d_value, window;
    float scale, soft_cap;
};
struct AttentionGrad { Mat q, k, v, dz, dq, dk, dv; u64 batch, len, heads, d_head, d_value; float scale; };
struct TopK { Mat x, scale, mask, vals, idx; u64 groups; u32 abs; };
struct Threshold { Mat x, scale, mask, out; u64 k; };
struct Compact { Mat x, scale, mask, theta, thr; Sparse y; };
struct Gate { Mat x, scale, theta, thr, y; };
struct GateGrad { Mat x, scale, theta, df, dx, dtheta; float window; };
struct Penalty { u32 kind; Sparse codes; Mat scale, weight, colgain, out, du; float p, c; };
struct ThresholdPenalty { Mat x, scale, theta, weight, out, dx, dtheta, dn; u32 gated; };
struct SparseMul { Sparse s; Mat w, bias, y; float beta; };
struct Scatter { Sparse s; Mat y; float beta; };
struct Confine { Sparse s; Mat out; u64 first, last; };
struct SparseDot { Sparse s; Mat w, x, out; };
struct SortByColumn { Sparse s; ByColumn out; };
struct SparseOuter { ByColumn by; Mat vals, x, y; float beta; };
struct Activity { Sparse codes; Mat mask, fired; };
struct Age { Mat fired, since, dead; u32 tokens, limit; };
struct Adam { Mat p, m, v, g, low, stats; float lr, beta1, beta2, eps, bc1, bc2, grad_scale; u32 sparse; };
struct Random { u32 kind; Mat y; float a, b; u64 seed, offset; };

static_assert(sizeof(Mat) == 40, "");
static_assert(sizeof(Sparse) == 136, "");
static_assert(sizeof(ByColumn) == 120, "");
static_assert(sizeof(Gemm) == 216, "");
static_assert(sizeof(Copy) == 80, "");
static_assert(sizeof(Gather) == 120, "");
static_assert(sizeof(Map) == 136, "");
static_assert(sizeof(Reduce) == 136, "");
static_assert(sizeof(Norm) == 216, "");
static_assert(sizeof(CrossEntropy) == 120, "");
static_assert(sizeof(Rope) == 192, "");
static_assert(sizeof(Attention) == 264, "");
static_assert(sizeof(AttentionGrad) == 328, "");
static_assert(sizeof(TopK) == 216, "");
static_assert(sizeof(Threshold) == 168, "");
static_assert(sizeof(Compact) == 336, "");
static_assert(sizeof(Gate) == 200, "");
static_assert(sizeof(GateGrad) == 248, "");
static_assert(sizeof(Penalty) == 352, "");
static_assert(sizeof(ThresholdPenalty) == 328, "");
static_assert(sizeof(SparseMul) == 264, "");
static_assert(sizeof(Scatter) == 184, "");
static_assert(sizeof(Confine) == 192, "");
static_assert(sizeof(SparseDot) == 256, "");
static_assert(sizeof(SortByColumn) == 256, "");
static_assert(sizeof(SparseOuter) == 248, "");
static_assert(sizeof(Activity) == 216, "");
static_assert(sizeof(Age) == 128, "");
static_assert(sizeof(Adam) == 272, "");
static_assert(sizeof(Random) == 72, "");

// Tags of the ops that can find their data outside their contract, for the failure record.
enum { TAG_GATHER = 4, TAG_CROSS_ENTROPY = 8, TAG_ROPE = 9, TAG_COMPACT = 13, TAG_PENALTY = 16, TAG_SPARSE_MUL = 18,
       TAG_SPARSE_DOT = 19, TAG_SORT_BY_COLUMN = 20, TAG_SPARSE_OUTER = 21, TAG_ACTIVITY = 22, TAG_SCATTER = 27,
       TAG_CONFINE = 28 };

// The first failure of a stream: written by the kernel that met it, read by the host when it synchronises.
struct Failure { u32 tag, reserved; u64 value, limit; };
