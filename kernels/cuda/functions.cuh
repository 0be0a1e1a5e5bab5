// Elementwise functions shared by Gemm's epilogue and Map.
#pragma once
#include "common.cuh"

__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }  // NaN stays NaN
__device__ inline float gelu_erf(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
}
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

// Act of runtime/src/op.
__device__ inline float activate(u32 act, float x) {
    switch (act) {
        case 1: return relu(x);
        case 2: return gelu_erf(x);
        case 3: return gelu_tanh(x);
        case 4: return silu(x);
        default: return x;
    }
}

// MapKind of runtime/src/op; KIND is a constant, so one form remains.
template <int KIND> __device__ inline float mapped(float x, float z, float a, float b) {
    switch (KIND) {
        case 0: return a * x + b;
        case 1: return relu(x);
        case 2: return gelu_erf(x);
        case 3: return gelu_tanh(x);
        case 4: return silu(x);
        case 5: return tanhf(a * x);
        case 6: return expf(x);
        case 7: return sqrtf(x);
        case 8: return a * x + b * z;
        case 9: return a * x * z;
        case 10: return a * x / z;
        case 11: return silu(x) * z;
        case 12: return gelu_tanh(x) * z;
        case 13: return gelu_erf(x) * z;
        case 14: return x <= b ? a : a * b / x;
        default: return a * tanhf(x / a);
    }
}
