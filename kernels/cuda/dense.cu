// Fill, Copy, Gather, Map: one pass over memory each.
#include "functions.cuh"

// `bits` is the element as the host encoded it.
extern "C" __global__ void op_fill(Mat y, u32 bits, u32 bytes) {
    FOR_ELEMENTS(r, c, y.rows, y.cols) {
        const u64 i = r * y.ld + c;
        if (bytes == 4) at<u32>(y)[i] = bits;
        else if (bytes == 2) at<u16>(y)[i] = (u16)bits;
        else at<u8>(y)[i] = (u8)bits;
    }
}
KERNEL(op_fill);

// Equal types are moved as bits of `bytes` bytes; bytes == 0 converts between floats.
extern "C" __global__ void op_copy(Copy o, u32 bytes) {
    FOR_ELEMENTS(r, c, o.y.rows, o.y.cols) {
        const u64 i = r * o.x.ld + c, j = r * o.y.ld + c;
        if (bytes == 4) at<u32>(o.y)[j] = at<u32>(o.x)[i];
        else if (bytes == 2) at<u16>(o.y)[j] = at<u16>(o.x)[i];
        else if (bytes == 1) at<u8>(o.y)[j] = at<u8>(o.x)[i];
        else store_float(o.y, j, load_float(o.x, i));
    }
}
KERNEL(op_copy);

extern "C" __global__ void op_gather(Gather o, Failure* failure) {
    FOR_ELEMENTS(r, c, o.y.rows, o.y.cols) {
        const u32 from = at<u32>(o.idx)[r];
        if (from >= o.table.rows) fail(failure, TAG_GATHER, from, o.table.rows);
        else at<float>(o.y)[r * o.y.ld + c] = load_float(o.table, from * o.table.ld + c);
    }
}
KERNEL(op_gather);

template <int KIND> __device__ void map_as(const Map& o) {
    const float *x = at<float>(o.x), *z = at<float>(o.z);
    const u64 row_step = o.z.rows > 1 ? o.z.ld : 0, col_step = o.z.cols > 1 ? 1 : 0;
    float* y = at<float>(o.y);
    FOR_ELEMENTS(r, c, o.x.rows, o.x.cols) {
        const float other = z ? z[r * row_step + c * col_step] : 0.0f;
        y[r * o.y.ld + c] = mapped<KIND>(x[r * o.x.ld + c], other, o.a, o.b);
    }
}

extern "C" __global__ void op_map(Map o) {
    switch (o.kind) {
        case 0: return map_as<0>(o);
        case 1: return map_as<1>(o);
        case 2: return map_as<2>(o);
        case 3: return map_as<3>(o);
        case 4: return map_as<4>(o);
        case 5: return map_as<5>(o);
        case 6: return map_as<6>(o);
        case 7: return map_as<7>(o);
        case 8: return map_as<8>(o);
        case 9: return map_as<9>(o);
        case 10: return map_as<10>(o);
        case 11: return map_as<11>(o);
        case 12: return map_as<12>(o);
        case 13: return map_as<13>(o);
        case 14: return map_as<14>(o);
        default: return map_as<15>(o);
    }
}
KERNEL(op_map);
