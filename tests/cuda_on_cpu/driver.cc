// A stand-in for libcuda.so.1, for tests on machines without a GPU. Device memory is heap memory and cuLaunchKernel runs the
// CPU build of the same .cu file, so the host code of the back end runs unchanged.
//
// Stricter than a lazy imitation would be: work waits in its stream until somebody synchronises, so a host buffer reused too
// early or a missing event shows; copies are checked against the allocation they name; memory starts as 0xCD; the kernel
// must be an `.entry` of the PTX that was loaded, with parameters of the same sizes.
#include "cuda_on_cpu.h"

#include <unistd.h>

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

typedef int Result;
typedef unsigned long long Pointer;
#define API extern "C" __attribute__((visibility("default"))) Result
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_PTX = 218, NOT_FOUND = 500,
       LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

static const size_t MEMORY = size_t(4) << 30;
static std::recursive_mutex mutex;
typedef std::lock_guard<std::recursive_mutex> Lock;
static std::map<Pointer, size_t> allocations, pinned;
static size_t used = 0;
static Result sticky = OK;  // as on a GPU, a failed kernel ends the context
static thread_local void* current = nullptr;
static char the_context;

struct Stream {
    std::deque<std::function<void()>> queue;
    uint64_t queued = 0, done = 0;
    bool running = false;  // somebody is in the middle of its first piece of work
    struct Graph* capture = nullptr;
};
struct Graph {
    std::vector<std::function<void()>> nodes;
};
struct Event {
    Stream* stream = nullptr;
    uint64_t mark = 0;
};
static std::map<Stream*, bool> streams;

static void drain(Stream* s, uint64_t mark) {
    while (s->done < mark) {
        if (s->running) {
            // Another thread has it, and waits for other processes.
            mutex.unlock();
            usleep(50);
            mutex.lock();
            continue;
        }
        if (s->queue.empty()) return;
        auto work = std::move(s->queue.front());
        s->queue.pop_front();
        s->running = true;
        work();
        s->running = false;
        s->done++;
    }
}
static void drain_all() {
    std::vector<Stream*> all;
    for (auto& s : streams) all.push_back(s.first);
    for (auto* s : all)
        if (streams.count(s)) drain(s, s->queued);
}
static Result enqueue(Stream* s, std::function<void()> work) {
    if (!s) return INVALID_VALUE;  // the legacy default stream is not used by this project
    if (sticky) return sticky;
    if (s->capture) {
        s->capture->nodes.push_back(std::move(work));
        return OK;
    }
    s->queue.push_back(std::move(work));
    s->queued++;
    return OK;
}

static bool within(const std::map<Pointer, size_t>& list, Pointer p, size_t n) {
    auto it = list.upper_bound(p);
    if (it == list.begin()) return false;
    --it;
    return p + n <= it->first + it->second;
}

// For the stand-ins of cuBLASLt and NCCL.
extern "C" __attribute__((visibility("default"))) Result stand_in_enqueue(Stream* s, std::function<void()>* work) {
    Lock l(mutex);
    return enqueue(s, *work);
}
extern "C" __attribute__((visibility("default"))) bool stand_in_within(Pointer p, size_t n) {
    Lock l(mutex);
    return within(allocations, p, n);
}

// Waits for something outside from within a piece of work, which is where the driver is locked once.
extern "C" __attribute__((visibility("default"))) void stand_in_meanwhile(std::function<void()>* wait) {
    mutex.unlock();
    (*wait)();
    mutex.lock();
}

// ---- Device, context ----
API cuInit(unsigned) { return OK; }
API cuDriverGetVersion(int* v) { return *v = 13000, OK; }
API cuDeviceGetCount(int* n) { return *n = 1, OK; }
API cuDeviceGet(int* d, int i) { return i ? INVALID_DEVICE : (*d = 0, OK); }
API cuDeviceGetName(char* s, int n, int) { return snprintf(s, n, "stand-in on the CPU"), OK; }
API cuDeviceTotalMem_v2(size_t* n, int) { return *n = MEMORY, OK; }
API cuDeviceGetAttribute(int* v, int attribute, int) {
    static const std::map<int, int> values = {{1, 1024}, {8, 49152}, {10, 32}, {16, 4}, {75, 9}, {76, 0}, {97, 232448}, {115, 1}};
    auto it = values.find(attribute);
    return *v = it == values.end() ? 0 : it->second, OK;
}
API cuDevicePrimaryCtxRetain(void** c, int) { return *c = &the_context, OK; }
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuCtxSetCurrent(void* c) { return current = c, OK; }
API cuCtxGetCurrent(void** c) { return *c = current, OK; }
API cuCtxSynchronize() {
    Lock l(mutex);
    drain_all();
    return sticky;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) { return *total = MEMORY, *free = MEMORY - used, OK; }

// ---- Memory ----
API cuMemAlloc_v2(Pointer* p, size_t n) {
    Lock l(mutex);
    if (!n) return INVALID_VALUE;
    if (used + n > MEMORY) return OUT_OF_MEMORY;
    void* q = nullptr;
    if (posix_memalign(&q, 256, n)) return OUT_OF_MEMORY;  // exactly n bytes, so that the address sanitizer sees an overrun
    memset(q, 0xCD, n);
    allocations[(Pointer)q] = n;
    used += n;
    return *p = (Pointer)q, OK;
}
API cuMemFree_v2(Pointer p) {
    Lock l(mutex);
    drain_all();
    auto it = allocations.find(p);
    if (it == allocations.end()) return INVALID_VALUE;
    used -= it->second;
    allocations.erase(it);
    free((void*)p);
    return OK;
}
API cuMemHostAlloc(void** p, size_t n, unsigned) {
    Lock l(mutex);
    *p = aligned_alloc(256, (n + 255) / 256 * 256);
    pinned[(Pointer)*p] = n;
    return OK;
}
API cuMemFreeHost(void* p) {
    Lock l(mutex);
    drain_all();
    pinned.erase((Pointer)p);
    free(p);
    return OK;
}
API cuMemcpyHtoDAsync_v2(Pointer d, const void* s, size_t n, Stream* stream) {
    Lock l(mutex);
    if (!within(allocations, d, n)) return INVALID_VALUE;
    if (within(pinned, (Pointer)s, n)) return enqueue(stream, [=] { memcpy((void*)d, s, n); });
    if (stream && stream->capture) return CAPTURE_UNSUPPORTED;
    auto copy = std::make_shared<std::vector<char>>((const char*)s, (const char*)s + n);
    return enqueue(stream, [=] { memcpy((void*)d, copy->data(), n); });
}
API cuMemcpyDtoHAsync_v2(void* d, Pointer s, size_t n, Stream* stream) {
    Lock l(mutex);
    if (!within(allocations, s, n)) return INVALID_VALUE;
    Result r = enqueue(stream, [=] { memcpy(d, (void*)s, n); });
    if (!r && !within(pinned, (Pointer)d, n) && !stream->capture) drain(stream, stream->queued);
    return r ? r : sticky;
}
API cuMemcpyDtoDAsync_v2(Pointer d, Pointer s, size_t n, Stream* stream) {
    Lock l(mutex);
    if (!within(allocations, d, n) || !within(allocations, s, n)) return INVALID_VALUE;
    return enqueue(stream, [=] { memmove((void*)d, (void*)s, n); });
}
API cuMemsetD8Async(Pointer d, unsigned char v, size_t n, Stream* stream) {
    Lock l(mutex);
    if (!within(allocations, d, n)) return INVALID_VALUE;
    return enqueue(stream, [=] { memset((void*)d, v, n); });
}

// ---- Streams, events, graphs ----
API cuStreamCreate(Stream** s, unsigned) {
    Lock l(mutex);
    *s = new Stream;
    streams[*s] = true;
    return OK;
}
API cuStreamDestroy_v2(Stream* s) {
    Lock l(mutex);
    drain(s, s->queued);
    streams.erase(s);
    delete s->capture;
    delete s;
    return OK;
}
API cuStreamSynchronize(Stream* s) {
    Lock l(mutex);
    if (s->capture) return CAPTURE_UNSUPPORTED;
    drain(s, s->queued);
    return sticky;
}
API cuStreamWaitEvent(Stream* s, Event* e, unsigned) {
    Lock l(mutex);
    Stream* other = e->stream;
    const uint64_t mark = e->mark;
    if (!streams.count(other) || other == s) return OK;
    return enqueue(s, [=] {
        if (streams.count(other)) drain(other, mark);
    });
}
API cuEventCreate(Event** e, unsigned) { return *e = new Event, OK; }
API cuEventDestroy_v2(Event* e) { return delete e, OK; }
API cuEventRecord(Event* e, Stream* s) {
    Lock l(mutex);
    e->stream = s, e->mark = s->queued;
    return OK;
}
API cuEventSynchronize(Event* e) {
    Lock l(mutex);
    if (streams.count(e->stream)) drain(e->stream, e->mark);  // a destroyed stream has done its work
    return sticky;
}
API cuEventQuery(Event* e) { return cuEventSynchronize(e); }
API cuStreamBeginCapture_v2(Stream* s, int) {
    Lock l(mutex);
    if (s->capture) return CAPTURE_INVALIDATED;
    s->capture = new Graph;
    return OK;
}
API cuStreamEndCapture(Stream* s, Graph** g) {
    Lock l(mutex);
    *g = s->capture;
    s->capture = nullptr;
    return *g ? OK : CAPTURE_INVALIDATED;
}
API cuStreamIsCapturing(Stream* s, int* status) { return *status = s->capture ? 1 : 0, OK; }
API cuGraphInstantiateWithFlags(Graph** exec, Graph* g, unsigned long long) { return *exec = new Graph(*g), OK; }
API cuGraphDestroy(Graph* g) { return delete g, OK; }
API cuGraphExecDestroy(Graph* g) {
    Lock l(mutex);
    drain_all();
    return delete g, OK;
}
API cuGraphLaunch(Graph* g, Stream* s) {
    Lock l(mutex);
    Result r = OK;
    for (auto& node : g->nodes)
        if (!r) r = enqueue(s, node);
    return r;
}

// ---- Modules and kernels ----
struct Module {
    std::map<std::string, std::vector<size_t>> entries;  // sizes of parameters
};

static size_t type_size(const std::string& declaration) {
    const size_t bracket = declaration.find('[');
    if (bracket != std::string::npos) return strtoull(declaration.c_str() + bracket + 1, nullptr, 10);
    return declaration.find("64") < declaration.find("_param_") ? 8 : 4;
}

API cuModuleLoadData(Module** m, const void* image) {
    const char* text = (const char*)image;
    if (!strstr(text, ".version")) return INVALID_PTX;
    auto* module = new Module;
    for (const char* p = text; (p = strstr(p, ".entry "));) {
        p += 7;
        const char *open = strchr(p, '('), *close = open ? strchr(open, ')') : nullptr;
        if (!close) break;
        auto& sizes = module->entries[std::string(p, open)];
        for (const char* q = open; (q = strstr(q, ".param ")) && q < close; q++) {
            const char* end = q + strcspn(q, ",)");
            sizes.push_back(type_size(std::string(q + 6, end)));
        }
        p = close;
    }
    return *m = module, OK;
}
API cuModuleUnload(Module* m) { return delete m, OK; }
API cuModuleGetFunction(const cuda_on_cpu::Kernel** f, Module* m, const char* name) {
    auto entry = m->entries.find(name);
    auto kernel = cuda_on_cpu::registry().find(name);
    if (entry == m->entries.end() || kernel == cuda_on_cpu::registry().end()) return NOT_FOUND;
    if (entry->second != kernel->second.sizes) {
        fprintf(stderr, "cuda_on_cpu: %s: the parameters of the PTX are not those of the source\n", name);
        return INVALID_PTX;
    }
    return *f = &kernel->second, OK;
}
API cuFuncSetAttribute(void*, int, int value) { return value <= 232448 ? OK : INVALID_VALUE; }
API cuLaunchKernel(const cuda_on_cpu::Kernel* k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream* stream, void** params, void**) {
    Lock l(mutex);
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || gx > 0x7fffffffu || size_t(bx) * by * bz > 1024) return INVALID_VALUE;
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (size_t i = 0; i < k->sizes.size(); i++) values->emplace_back((char*)params[i], (char*)params[i] + k->sizes[i]);
    return enqueue(stream, [=] {
        std::vector<void*> pointers;
        for (auto& v : *values) pointers.push_back(v.data());
        if (!cuda_on_cpu::launch(*k, dim3(gx, gy, gz), dim3(bx, by, bz), shared, pointers.data())) sticky = LAUNCH_FAILED;
    });
}

API cuGetErrorName(Result e, const char** s) {
    *s = e == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return OK;
}
API cuGetErrorString(Result e, const char** s) {
    *s = e == LAUNCH_FAILED ? "a kernel failed; what it did is on standard error" : "an error of the stand-in driver";
    return OK;
}
