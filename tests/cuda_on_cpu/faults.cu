// Kernels with a planted fault each, and one without: what the CPU run of the kernels must catch.
#include "../../kernels/cuda/common.cuh"

// Sound: reverses 256 numbers through shared memory.
extern "C" __global__ void sound_reverse(const float* x, float* y) {
    __shared__ float s[256];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[255 - threadIdx.x];
}
KERNEL(sound_reverse);

// The barrier is missing: threads read what others have not written yet.
extern "C" __global__ void fault_missing_barrier(const float* x, float* y) {
    __shared__ float s[256];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[255 - threadIdx.x];
}
KERNEL(fault_missing_barrier);

// Only half of the threads reach the barrier.
extern "C" __global__ void fault_divergent_barrier(const float* x, float* y) {
    if (threadIdx.x < 128) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
KERNEL(fault_divergent_barrier);

// The halves wait at different barriers.
extern "C" __global__ void fault_two_barriers(const float* x, float* y) {
    if (threadIdx.x < 128) __syncthreads();
    else
        __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
KERNEL(fault_two_barriers);

// A warp operation that names lanes which have left.
extern "C" __global__ void fault_exited_lanes(const float* x, float* y) {
    if (threadIdx.x >= 16) return;
    y[threadIdx.x] = warp_all<Plus>(x[threadIdx.x]);
}
KERNEL(fault_exited_lanes);

// Reads one element past the end of x [255].
extern "C" __global__ void fault_out_of_bounds(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }
KERNEL(fault_out_of_bounds);

// Writes one element past the dynamic shared memory asked for.
extern "C" __global__ void fault_shared_overrun(const float* x, float* y) {
    DYNAMIC_SHARED(float, s);
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x];
}
KERNEL(fault_shared_overrun);
