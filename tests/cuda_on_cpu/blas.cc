// A stand-in for libcublasLt.so.13: the calls that backends/src/cuda/blas.rs makes, computed by plain loops in the order of
// the stream. It refuses what the library would: operands less aligned than promised, sizes that do not fit together.
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

extern "C" int stand_in_enqueue(void* stream, std::function<void()>* work);
extern "C" bool stand_in_within(unsigned long long p, size_t n);

typedef int Status;
#define API extern "C" __attribute__((visibility("default"))) Status
enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14 };

struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld, stride = 0;
    int batch = 1;
};
struct Desc {
    int ta = 0, tb = 0, epilogue = 1;
    const float* bias = nullptr;
};
struct Pref {
    uint32_t align[4] = {256, 256, 256, 256};
};
struct Algo {
    uint64_t data[8];  // holds the alignments the choice relies on
};
struct Heuristic {
    Algo algo;
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

API cublasLtCreate(void** h) { return *h = new int, OK; }
API cublasLtDestroy(void* h) { return delete (int*)h, OK; }
API cublasLtMatrixLayoutCreate(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    if (ld < (int64_t)rows) return INVALID_VALUE;
    *l = new Layout{type, rows, cols, ld};
    return OK;
}
API cublasLtMatrixLayoutSetAttribute(Layout* l, int attribute, const void* value, size_t size) {
    if (attribute == 5 && size == 4) return memcpy(&l->batch, value, 4), OK;
    if (attribute == 6 && size == 8) return memcpy(&l->stride, value, 8), OK;
    return INVALID_VALUE;
}
API cublasLtMatrixLayoutDestroy(Layout* l) { return delete l, OK; }
API cublasLtMatmulDescCreate(Desc** d, int, int scale) { return scale == R_32F ? (*d = new Desc, OK) : INVALID_VALUE; }
API cublasLtMatmulDescSetAttribute(Desc* d, int attribute, const void* value, size_t size) {
    if (attribute == 3 && size == 4) return memcpy(&d->ta, value, 4), OK;
    if (attribute == 4 && size == 4) return memcpy(&d->tb, value, 4), OK;
    if (attribute == 7 && size == 4) return memcpy(&d->epilogue, value, 4), OK;
    if (attribute == 8 && size == 8) return memcpy(&d->bias, value, 8), OK;
    return INVALID_VALUE;
}
API cublasLtMatmulDescDestroy(Desc* d) { return delete d, OK; }
API cublasLtMatmulPreferenceCreate(Pref** p) { return *p = new Pref, OK; }
API cublasLtMatmulPreferenceSetAttribute(Pref* p, int attribute, const void* value, size_t size) {
    if (attribute == 1 && size == 8) return OK;
    if (attribute == 3 && size == 4) return OK;
    if (attribute >= 5 && attribute <= 8 && size == 4) return memcpy(&p->align[attribute - 5], value, 4), OK;
    return INVALID_VALUE;
}
API cublasLtMatmulPreferenceDestroy(Pref* p) { return delete p, OK; }

static bool fits(const Desc& d, const Layout& a, const Layout& b, const Layout& c) {
    const uint64_t m = d.ta ? a.cols : a.rows, k = d.ta ? a.rows : a.cols, n = d.tb ? b.rows : b.cols;
    return (d.tb ? b.cols : b.rows) == k && c.rows == m && c.cols == n && c.type == R_32F && a.type == b.type &&
           a.batch == c.batch && b.batch == c.batch;
}

API cublasLtMatmulAlgoGetHeuristic(void*, Desc* d, Layout* a, Layout* b, Layout* c, Layout*, Pref* p, int, Heuristic* r, int* n) {
    *n = 0;
    if (!fits(*d, *a, *b, *c)) return INVALID_VALUE;
    // As the library: half types need pairs.
    if (a->type != R_32F && (p->align[0] < 4 || p->align[1] < 4)) return NOT_SUPPORTED;
    *r = Heuristic{};
    for (int i = 0; i < 4; i++) r->algo.data[i] = p->align[i];
    *n = 1;
    return OK;
}

static float element(const void* base, const Layout& l, int batch, uint64_t r, uint64_t c) {
    const uint64_t i = batch * l.stride + c * l.ld + r;
    if (l.type == R_32F) return ((const float*)base)[i];
    if (l.type == R_16F) return (float)((const _Float16*)base)[i];
    const uint32_t bits = (uint32_t)((const uint16_t*)base)[i] << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static bool inside(const void* base, const Layout& l) {
    const uint64_t last = (l.batch - 1) * l.stride + (l.cols - 1) * l.ld + l.rows;
    return stand_in_within((unsigned long long)base, last * (l.type == R_32F ? 4 : 2));
}

API cublasLtMatmul(void*, Desc* d, const float* alpha, const void* a, Layout* la, const void* b, Layout* lb, const float* beta,
                   const void* c, Layout* lc, float* out, Layout* ld, const Algo* algo, void* workspace, size_t size, void* stream) {
    const void* operands[4] = {a, b, c, out};
    for (int i = 0; i < 4; i++)
        if ((uint64_t)operands[i] % algo->data[i]) return INVALID_VALUE;
    if (!fits(*d, *la, *lb, *lc) || c != out || lc != ld || !inside(a, *la) || !inside(b, *lb) || !inside(c, *lc)) return INVALID_VALUE;
    if (!stand_in_within((unsigned long long)workspace, size)) return INVALID_VALUE;
    const Desc desc = *d;
    const Layout A = *la, B = *lb, C = *lc;
    const float alpha_now = *alpha, beta_now = *beta;
    std::function<void()> work = [=] {
        for (int batch = 0; batch < C.batch; batch++) {
            for (uint64_t j = 0; j < C.cols; j++) {
                for (uint64_t i = 0; i < C.rows; i++) {
                    float sum = 0;
                    for (uint64_t k = 0; k < (desc.ta ? A.rows : A.cols); k++)
                        sum += (desc.ta ? element(a, A, batch, k, i) : element(a, A, batch, i, k)) *
                               (desc.tb ? element(b, B, batch, j, k) : element(b, B, batch, k, j));
                    float* place = out + batch * C.stride + j * C.ld + i;
                    *place = alpha_now * sum + (beta_now == 0 ? 0 : beta_now * *place) + (desc.epilogue == 4 ? desc.bias[i] : 0);
                }
            }
        }
    };
    return stand_in_enqueue(stream, &work) ? INVALID_VALUE : OK;
}
