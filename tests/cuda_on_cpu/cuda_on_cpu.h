// The CUDA words that kernels/cuda uses, for g++: the same .cu files run on the CPU, in tests only.
//
// A block is run by one OS thread; each of its CUDA threads is a fiber that runs until it meets a barrier or a warp
// operation. A seed sets the order in which runnable fibers take their turn, so a missing barrier shows as a result that
// depends on the seed. Reported with kernel, file and line: a barrier or warp operation that some threads do not reach, or
// reach elsewhere. Out of scope: races within one stretch between barriers that no order reveals, the memory model.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define CUDA_ON_CPU 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a block never leaves its OS thread

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace cuda_on_cpu {

struct Site {
    const char* file;
    int line;
    bool operator==(const Site& o) const { return line == o.line && !strcmp(file, o.file); }
};

enum class State { Ready, AtBarrier, AtWarpOp, Done };
typedef void (*WarpFn)(void** lanes, uint32_t mask);

struct Fiber {
    void* sp = nullptr;
    char* stack = nullptr;
    State state = State::Done;
    dim3 tid{0, 0, 0};
    unsigned linear = 0;
    uint32_t mask = 0;
    WarpFn fn = nullptr;
    void* payload = nullptr;
    Site site{"", 0};
    void* fake_stack = nullptr;  // address sanitizer
};

struct Block {
    std::vector<Fiber> fibers;
    Fiber* current = nullptr;
    void* scheduler = nullptr;
    dim3 index, dim, grid;
    std::vector<char> dynamic;
    const char* kernel = "";
    void (*body)(void**) = nullptr;
    void** params = nullptr;
    void* scheduler_fake = nullptr;
    const void* scheduler_bottom = nullptr;
    size_t scheduler_size = 0;
};

constexpr size_t STACK = 64 * 1024;
inline thread_local Block* block = nullptr;
inline uint64_t& seed() {
    static uint64_t s = [] {
        const char* text = getenv("CUDA_ON_CPU_SEED");
        return text ? strtoull(text, nullptr, 10) : 0;
    }();
    return s;
}

extern "C" void cuda_on_cpu_switch(void** save, void* to);

inline void to_scheduler() {
    Block* b = block;
    [[maybe_unused]] Fiber* f = b->current;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(f->state == State::Done ? nullptr : &f->fake_stack, b->scheduler_bottom, b->scheduler_size);
#endif
    cuda_on_cpu_switch(&f->sp, b->scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, &b->scheduler_bottom, &b->scheduler_size);
#endif
}

inline void fiber_main() {
    Block* b = block;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &b->scheduler_bottom, &b->scheduler_size);
#endif
    b->body(b->params);
    b->current->state = State::Done;
    to_scheduler();
    abort();
}

inline void barrier(Site site) {
    block->current->state = State::AtBarrier;
    block->current->site = site;
    to_scheduler();
}

inline void warp_op(uint32_t mask, void* payload, WarpFn fn, Site site) {
    Fiber* f = block->current;
    f->state = State::AtWarpOp;
    f->mask = mask;
    f->payload = payload;
    f->fn = fn;
    f->site = site;
    to_scheduler();
}

inline bool fail(Block* b, const char* what) {
    fprintf(stderr, "cuda_on_cpu: %s: %s in block (%u, %u, %u)\n", b->kernel, what, b->index.x, b->index.y, b->index.z);
    int shown = 0;
    for (auto& f : b->fibers) {
        if ((f.state != State::AtBarrier && f.state != State::AtWarpOp) || shown++ >= 4) continue;
        const char* kind = f.state == State::AtBarrier ? "__syncthreads" : "a warp operation";
        fprintf(stderr, "  thread %u waits at %s:%d (%s)\n", f.linear, f.site.file, f.site.line, kind);
    }
    return false;
}

// Puts the fiber's first frame on its stack: six saved registers, fiber_main as the return address.
inline void prepare(Block* b, unsigned i) {
    Fiber& f = b->fibers[i];
    f.linear = i;
    f.tid = dim3(i % b->dim.x, i / b->dim.x % b->dim.y, i / (b->dim.x * b->dim.y));
    void** sp = (void**)(f.stack + STACK - 64);
    *--sp = nullptr;
    *--sp = (void*)fiber_main;
    for (int k = 0; k < 6; k++) *--sp = nullptr;
    f.sp = sp;
    f.state = State::Ready;
}

inline void resume(Block* b, Fiber& f) {
    b->current = &f;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&b->scheduler_fake, f.stack, STACK);
#endif
    cuda_on_cpu_switch(&b->scheduler, f.sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(b->scheduler_fake, nullptr, nullptr);
#endif
}

// Runs the warp operation `f` waits at once every lane of its mask waits there too; false when one never can.
inline bool complete_warp_op(Block* b, Fiber& f) {
    const size_t first = f.linear / 32 * 32;
    void* lanes[32] = {};
    for (int l = 0; l < 32; l++) {
        if (!(f.mask >> l & 1)) continue;
        if (first + l >= b->fibers.size()) return fail(b, "a warp operation names lanes that do not exist");
        Fiber& g = b->fibers[first + l];
        if (g.state == State::Done) return fail(b, "a warp operation waits for a thread that has ended");
        if (g.state != State::AtWarpOp || g.mask != f.mask || g.fn != f.fn || !(g.site == f.site)) return true;
        lanes[l] = g.payload;
    }
    f.fn(lanes, f.mask);
    for (int l = 0; l < 32; l++)
        if (f.mask >> l & 1) b->fibers[first + l].state = State::Ready;
    return true;
}

// Releases a barrier that all threads have reached; false when they cannot.
inline bool complete_barrier(Block* b, bool ran, bool& alive) {
    size_t waiting = 0, living = 0;
    bool same = true;
    const Fiber* any = nullptr;
    for (auto& f : b->fibers) {
        living += f.state != State::Done;
        if (f.state != State::AtBarrier) continue;
        waiting++;
        if (any) same = same && any->site == f.site;
        any = &f;
    }
    alive = living > 0;
    if (alive && waiting == living) {
        if (!same) return fail(b, "threads wait at different barriers (divergent barrier)");
        if (living != b->fibers.size()) return fail(b, "threads wait at a barrier after others have ended");
        for (auto& f : b->fibers) f.state = State::Ready;
    } else if (alive && !ran) {
        return fail(b, "deadlock: a barrier or warp operation is not reached by all its threads");
    }
    return true;
}

inline bool run_block(Block* b) {
    block = b;
    const unsigned n = (unsigned)b->fibers.size();
    uint64_t rng = seed() * 0x9E3779B97F4A7C15ull + b->index.x + 1;
    std::vector<unsigned> order(n);
    for (unsigned i = 0; i < n; i++) prepare(b, i), order[i] = i;
    for (bool alive = true; alive;) {
        bool ran = false;
        for (unsigned i = n; seed() && i > 1; i--) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            std::swap(order[i - 1], order[rng % i]);
        }
        for (unsigned i : order) {
            Fiber& f = b->fibers[i];
            if (f.state != State::Ready) continue;
            ran = true;
            resume(b, f);
            if (f.state == State::AtWarpOp && !complete_warp_op(b, f)) return false;
        }
        if (!complete_barrier(b, ran, alive)) return false;
    }
    return true;
}

// ---- Kernels by name, called with cuLaunchKernel's array of pointers to parameters ----

struct Kernel {
    std::string name;
    std::vector<size_t> sizes;  // of the parameters
    void (*call)(void**);
};
inline std::map<std::string, Kernel>& registry() {
    static std::map<std::string, Kernel> r;
    return r;
}
template <auto F> struct Thunk;
template <class... A, void (*F)(A...)> struct Thunk<F> {
    static std::vector<size_t> sizes() { return {sizeof(A)...}; }
    template <size_t... I> static void unpack(void** p, std::index_sequence<I...>) { F(*(A*)p[I]...); }
    static void call(void** p) { unpack(p, std::index_sequence_for<A...>{}); }
};
struct Register {
    Register(const char* name, std::vector<size_t> sizes, void (*call)(void**)) { registry()[name] = {name, sizes, call}; }
};

// Stacks are kept for the next launch.
struct Stacks {
    std::mutex mutex;
    std::vector<char*> free;
    void take(std::vector<Fiber>& fibers) {
        std::lock_guard<std::mutex> l(mutex);
        for (auto& f : fibers) {
            if (free.empty()) free.push_back((char*)aligned_alloc(64, STACK));
            f.stack = free.back();
            free.pop_back();
        }
    }
    void give_back(std::vector<Fiber>& fibers) {
        std::lock_guard<std::mutex> l(mutex);
        for (auto& f : fibers) {
#if defined(__SANITIZE_ADDRESS__)
            __asan_unpoison_memory_region(f.stack, STACK);
#endif
            free.push_back(f.stack);
        }
    }
};
inline Stacks& stacks() {
    static Stacks s;
    return s;
}

inline bool launch(const Kernel& k, dim3 grid, dim3 dim, size_t dynamic, void** params) {
    const size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(dim.x) * dim.y * dim.z;
    if (!blocks || !threads || threads > 1024 || dynamic > 227 * 1024) return false;
    std::atomic<size_t> next{0};
    std::atomic<bool> good{true};
    auto work = [&] {
        Block b;
        b.fibers.resize(threads);
        stacks().take(b.fibers);
        b.dim = dim, b.grid = grid, b.kernel = k.name.c_str(), b.body = k.call, b.params = params;
        for (size_t i; good && (i = next++) < blocks;) {
            // Exactly the size asked for, on the heap, so that the address sanitizer sees an overrun.
            b.dynamic.assign(dynamic, (char)0xCD);
            b.index = dim3(unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / (size_t(grid.x) * grid.y)));
            if (!run_block(&b)) good = false;
        }
        stacks().give_back(b.fibers);
    };
    const size_t workers = blocks * threads < 4096 ? 1 : std::min<size_t>(std::thread::hardware_concurrency(), blocks);
    if (workers <= 1) {
        work();
        return good;
    }
    std::vector<std::thread> pool;
    for (size_t i = 0; i < workers; i++) pool.emplace_back(work);
    for (auto& t : pool) t.join();
    return good;
}

// ---- Warp operations ----

struct Shuffle {
    uint64_t value;
    int from;
};
inline void shuffle_all(void** lanes, uint32_t mask) {
    uint64_t in[32];
    for (int i = 0; i < 32; i++) in[i] = lanes[i] ? ((Shuffle*)lanes[i])->value : 0xDEADDEADDEADDEADull;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) ((Shuffle*)lanes[i])->value = in[((Shuffle*)lanes[i])->from];
}
template <class T> T shuffle(uint32_t mask, T v, int from, Site site) {
    static_assert(sizeof(T) <= 8, "");
    Shuffle s{0, from};
    memcpy(&s.value, &v, sizeof v);
    warp_op(mask, &s, shuffle_all, site);
    memcpy(&v, &s.value, sizeof v);
    return v;
}
inline void meet(void**, uint32_t) {}
inline int lane_now() { return block->current->linear & 31; }

template <class T> T bits(const void* p) {
    T t;
    memcpy(&t, p, sizeof t);
    return t;
}
inline float half_to_float(uint16_t h) { return (float)bits<_Float16>(&h); }
inline uint16_t float_to_half(float f) {
    const _Float16 h = (_Float16)f;
    return bits<uint16_t>(&h);
}
}  // namespace cuda_on_cpu

#define CUDA_SITE (cuda_on_cpu::Site{__FILE__, __LINE__})
#define threadIdx (cuda_on_cpu::block->current->tid)
#define blockIdx (cuda_on_cpu::block->index)
#define blockDim (cuda_on_cpu::block->dim)
#define gridDim (cuda_on_cpu::block->grid)
#define DYNAMIC_SHARED(T, name) T* name = (T*)cuda_on_cpu::block->dynamic.data()
#define KERNEL(name) \
    static cuda_on_cpu::Register register_##name(#name, cuda_on_cpu::Thunk<&name>::sizes(), cuda_on_cpu::Thunk<&name>::call)
#define __syncthreads() cuda_on_cpu::barrier(CUDA_SITE)
#define __syncwarp() cuda_on_cpu::warp_op(0xffffffffu, nullptr, cuda_on_cpu::meet, CUDA_SITE)
#define __shfl_xor_sync(m, v, x) cuda_on_cpu::shuffle(m, v, cuda_on_cpu::lane_now() ^ (x), CUDA_SITE)
#define __shfl_up_sync(m, v, d) \
    cuda_on_cpu::shuffle(m, v, cuda_on_cpu::lane_now() - int(d) >= 0 ? cuda_on_cpu::lane_now() - int(d) : cuda_on_cpu::lane_now(), CUDA_SITE)

// Relaxed, as on a GPU.
template <class T> T atomicAdd(T* p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
template <class T> T atomicCAS(T* p, T expected, T desired) {
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
inline float __int_as_float(int i) { return cuda_on_cpu::bits<float>(&i); }
inline int __float_as_int(float f) { return cuda_on_cpu::bits<int>(&f); }
// Built with -ffp-contract=off: one rounding each.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
