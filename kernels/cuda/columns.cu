// SortByColumn and SparseOuter: gradients of a sparse product, summed column by column in the order of the rows.
// Sorting counts the entries of each column, scans the counts into col_ptr, drops the slots into their column in any order,
// and then sorts the slots of each column: slots ascend with rows, so the result does not depend on the order of the drop.
#include "common.cuh"

#define SCAN 1024  // elements a block of 256 scans

// col_ptr [n + 1] starts as zeros and receives the count of column f at f + 1.
extern "C" __global__ void op_columns_count(SortByColumn o, Failure* failure) {
    const Range all = all_slots(o.s);
    for (u64 slot = all.first + (u64)blockIdx.x * blockDim.x + threadIdx.x; slot < all.last;
         slot += (u64)gridDim.x * blockDim.x) {
        const u32 f = column_in(o.s, slot, failure, TAG_SORT_BY_COLUMN);
        if (f != EMPTY) atomicAdd(&at<u32>(o.out.col_ptr)[f + 1], 1u);
    }
}
KERNEL(op_columns_count);

// Block of 256: inclusive sums within runs of SCAN elements of values [n], and the sum of each run.
extern "C" __global__ void op_scan_runs(u32* values, u64 n, u32* sums) {
    const u64 first = (u64)blockIdx.x * SCAN + threadIdx.x * (SCAN / 256);
    u32 own = 0, total;
    for (int i = 0; i < SCAN / 256; i++)
        if (first + i < n) own += values[first + i];
    u32 running = block_before(own, total);
    for (int i = 0; i < SCAN / 256; i++)
        if (first + i < n) values[first + i] = running += values[first + i];
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}
KERNEL(op_scan_runs);

// One block of 256: exclusive sums of sums [runs].
extern "C" __global__ void op_scan_sums(u32* sums, u64 runs) {
    u32 base = 0;
    for (u64 r0 = 0; r0 < runs; r0 += blockDim.x) {
        const u64 r = r0 + threadIdx.x;
        u32 total;
        const u32 before = base + block_before(r < runs ? sums[r] : 0u, total);
        if (r < runs) sums[r] = before;
        base += total;
    }
}
KERNEL(op_scan_sums);

// Block of 256 a run: what lies before the run is added; cursor [n - 1] becomes the first place of each column.
extern "C" __global__ void op_scan_end(u32* values, u64 n, const u32* sums, u32* cursor) {
    for (u64 i = (u64)blockIdx.x * SCAN + threadIdx.x; i < n && i < (u64)(blockIdx.x + 1) * SCAN; i += blockDim.x) {
        values[i] += sums[blockIdx.x];
        if (i + 1 < n) cursor[i] = values[i];
    }
}
KERNEL(op_scan_end);

extern "C" __global__ void op_columns_place(SortByColumn o, u32* cursor) {
    const Range all = all_slots(o.s);
    for (u64 slot = all.first + (u64)blockIdx.x * blockDim.x + threadIdx.x; slot < all.last;
         slot += (u64)gridDim.x * blockDim.x) {
        const u32 f = at<u32>(o.s.idx)[slot];
        if (f < o.s.n) at<u32>(o.out.slot)[atomicAdd(&cursor[f], 1u)] = (u32)slot;
    }
}
KERNEL(op_columns_place);

// Row of a slot.
__device__ inline u32 row_of(const Sparse& s, u32 slot) {
    if (!present(s.ptr)) return slot / (u32)s.vals.cols;
    const u32* ptr = at<u32>(s.ptr);
    u32 low = 0, high = (u32)s.rows;  // ptr[low] <= slot < ptr[high]
    while (high - low > 1) {
        const u32 middle = low + (high - low) / 2;
        if (ptr[middle] <= slot) low = middle;
        else high = middle;
    }
    return low;
}

// A warp a column of at most 32 entries, sorted in registers; longer ones are left for op_columns_sort_long.
extern "C" __global__ void op_columns_sort_short(SortByColumn o) {
    const u64 f = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    const bool inside = f < o.s.n;
    const u32* col_ptr = at<u32>(o.out.col_ptr);
    const u32 first = inside ? col_ptr[f] : 0, count = inside ? col_ptr[f + 1] - first : 0;
    if (count == 0 || count > 32) return;  // the same for the whole warp
    u32 slot = lane() < (int)count ? at<u32>(o.out.slot)[first + lane()] : EMPTY;
    for (int run = 2; run <= 32; run <<= 1) {
        for (int step = run >> 1, mirror = run - 1; step > 0; step >>= 1, mirror = 0) {
            const u32 other = __shfl_xor_sync(ALL_LANES, slot, mirror ? mirror : step);
            const bool lower = (lane() & step) == 0;
            slot = lower == (other < slot) ? other : slot;
        }
    }
    if (lane() < (int)count) {
        at<u32>(o.out.slot)[first + lane()] = slot;
        at<u32>(o.out.row)[first + lane()] = row_of(o.s, slot);
    }
}
KERNEL(op_columns_sort_short);

// A block a column of more than 32 entries, sorted where it lies.
extern "C" __global__ void op_columns_sort_long(SortByColumn o) {
    for (u64 f = blockIdx.x; f < o.s.n; f += gridDim.x) {
        const u32 first = at<u32>(o.out.col_ptr)[f], count = at<u32>(o.out.col_ptr)[f + 1] - first;
        if (count <= 32) continue;
        u32* slot = at<u32>(o.out.slot) + first;
        u32 size = 1;
        while (size < count) size <<= 1;
        for (u32 run = 2; run <= size; run <<= 1) {
            for (u32 step = run >> 1, mirror = run - 1; step > 0; step >>= 1, mirror = 0) {
                __syncthreads();
                for (u32 t = threadIdx.x; t < size / 2; t += blockDim.x) {
                    const u32 low = t / step * 2 * step + t % step, high = mirror ? low ^ mirror : low + step;
                    if (high < count && slot[high] < slot[low]) {
                        const u32 swap = slot[low];
                        slot[low] = slot[high];
                        slot[high] = swap;
                    }
                }
            }
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < count; i += blockDim.x) at<u32>(o.out.row)[first + i] = row_of(o.s, slot[i]);
    }
}
KERNEL(op_columns_sort_long);

#define CHUNK 256
#define WIDE 4

// A block a column of the codes and WIDE·blockDim columns of y.
extern "C" __global__ void __launch_bounds__(256) op_sparse_outer(SparseOuter o, Failure* failure) {
    __shared__ float val[CHUNK];
    __shared__ u32 row[CHUNK];
    const u64 f = blockIdx.x, width = o.y.cols, c0 = (u64)blockIdx.y * blockDim.x * WIDE + threadIdx.x;
    const u32 first = at<u32>(o.by.col_ptr)[f], last = at<u32>(o.by.col_ptr)[f + 1];
    float sum[WIDE] = {};
    for (u32 base = first; base < last; base += blockDim.x) {
        const u32 e = base + threadIdx.x;
        __syncthreads();
        if (e < last) {
            const u32 slot = at<u32>(o.by.slot)[e], r = at<u32>(o.by.row)[e];
            const bool sound = r < o.x.rows && slot < o.vals.rows * o.vals.cols;
            if (!sound) fail(failure, TAG_SPARSE_OUTER, r < o.x.rows ? slot : r, r < o.x.rows ? o.vals.rows * o.vals.cols : o.x.rows);
            row[threadIdx.x] = sound ? r : EMPTY;
            val[threadIdx.x] = sound ? at<float>(o.vals)[slot] : 0.0f;
        }
        __syncthreads();
        const u32 count = last - base < blockDim.x ? last - base : blockDim.x;
        for (u32 i = 0; i < count; i++) {
            if (row[i] == EMPTY) continue;
            const float* x = at<float>(o.x) + row[i] * o.x.ld;
            for (int j = 0; j < WIDE; j++) {
                const u64 c = c0 + j * blockDim.x;
                if (c < width) sum[j] += val[i] * x[c];
            }
        }
    }
    for (int j = 0; j < WIDE; j++) {
        const u64 c = c0 + j * blockDim.x;
        if (c >= width) break;
        float* y = at<float>(o.y) + f * o.y.ld + c;
        *y = (o.beta == 0.0f ? 0.0f : o.beta * *y) + sum[j];
    }
}
KERNEL(op_sparse_outer);
