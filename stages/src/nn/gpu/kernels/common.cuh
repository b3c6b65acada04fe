// What the kernels share. It is put before the text of each file: NVRTC compiles one text and knows no folder of headers.
//
// Four geometries of launches; the table at the head of each file names the one of each kernel:
//   FLAT(n)                grid (min(ceil(n / 1024), 65535), 1, 1), block 256
//   MATRIX(rows, columns)  grid (ceil(columns / 256), min(ceil(rows / 4), 65535), 1), block 256
//   ROWS(rows)             grid (ceil(rows / 4), 1, 1), block 128: a warp for each row
//   SUMS(rows, columns)    grid (ceil(columns / 32), ceil(rows / 128), 1), block 256
// No kernel uses atomics, and no order of additions depends on the device: it follows from the shapes alone.

#define WARP 32u
#define ALL_LANES 0xffffffffu
// Values that a thread takes at once, so that their loads overlap.
#define AT_ONCE 4u

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

// A dropout mask: `nn::dropout::Mask` in Rust. A threshold of 0 means that nothing is dropped.
struct Mask {
    unsigned first, key0, key1, threshold;
    float scale;
};

// What element `element` is multiplied by: the same hash as in Rust, bit for bit.
__device__ __forceinline__ float factor(const Mask &mask, unsigned element) {
    if (mask.threshold == 0) return 1.0f;
    unsigned x = (element + mask.first) ^ mask.key0;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15) ^ mask.key1) * 0x846ca68bu;
    x ^= x >> 16;
    return x >= mask.threshold ? mask.scale : 0.0f;
}

// The sum of a product that was cut into `parts` along its inner dimension, `size` elements a part: in their order.
__device__ __forceinline__ float add_up(const float *in, unsigned parts, size_t size, size_t at) {
    float sum = in[at];
#pragma unroll 8
    for (unsigned part = 1; part < parts; part++) sum += in[part * size + at];
    return sum;
}

// The slot of this block: the last one whose first block is not after it.
__device__ __forceinline__ unsigned slot_of_block(const unsigned *first_block, unsigned slots_count) {
    unsigned below = 0, above = slots_count;
    while (above - below > 1) {
        unsigned middle = (below + above) / 2;
        if (first_block[middle] <= blockIdx.x) below = middle;
        else above = middle;
    }
    return below;
}

// A sum over the warp, the same in every lane.
__device__ __forceinline__ float warp_sum(float x) {
    for (unsigned step = WARP / 2; step; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (unsigned step = WARP / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

// store(i, load(i)) for each i below n, in the geometry FLAT.
template <typename Load, typename Store>
__device__ __forceinline__ void each_value(unsigned n, Load load, Store store) {
    const size_t chunk = AT_ONCE * 256;
    for (size_t begin = blockIdx.x * chunk; begin < n; begin += gridDim.x * chunk) {
        decltype(load(begin)) values[AT_ONCE];
#pragma unroll
        for (unsigned k = 0; k < AT_ONCE; k++) {
            size_t i = begin + k * 256 + threadIdx.x;
            if (i < n) values[k] = load(i);
        }
#pragma unroll
        for (unsigned k = 0; k < AT_ONCE; k++) {
            size_t i = begin + k * 256 + threadIdx.x;
            if (i < n) store(i, values[k]);
        }
    }
}

// store(row, column, load(row, column)) for each element of a matrix, in the geometry MATRIX.
template <typename Load, typename Store>
__device__ __forceinline__ void each_element(unsigned rows, unsigned columns, Load load, Store store) {
    size_t column = blockIdx.x * 256u + threadIdx.x;
    if (column >= columns) return;
    for (size_t first = blockIdx.y * AT_ONCE; first < rows; first += gridDim.y * AT_ONCE) {
        decltype(load(first, column)) values[AT_ONCE];
#pragma unroll
        for (unsigned k = 0; k < AT_ONCE; k++)
            if (first + k < rows) values[k] = load(first + k, column);
#pragma unroll
        for (unsigned k = 0; k < AT_ONCE; k++)
            if (first + k < rows) store(first + k, column, values[k]);
    }
}

// Rows of each block in the geometry SUMS, and the warps that share them.
#define SUMMED_ROWS 128u
#define SUMMED_WARPS 8u

// Sums over a block's rows of the `COUNT` values that add(sums, row, column) adds to `sums`; store(column, sums) gets them.
template <unsigned COUNT, typename Add, typename Store>
__device__ __forceinline__ void each_column_sum(unsigned rows, unsigned columns, Add add, Store store) {
    __shared__ float shared[COUNT][SUMMED_WARPS][WARP];
    unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    size_t column = blockIdx.x * WARP + lane;
    float sums[COUNT] = {};
    size_t begin = (size_t)blockIdx.y * SUMMED_ROWS;
    size_t end = begin + SUMMED_ROWS < rows ? begin + SUMMED_ROWS : rows;
    if (column < columns) {
#pragma unroll 4
        for (size_t row = begin + warp; row < end; row += SUMMED_WARPS) add(sums, row, column);
    }
    for (unsigned i = 0; i < COUNT; i++) shared[i][warp][lane] = sums[i];
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    for (unsigned i = 0; i < COUNT; i++) {
        sums[i] = shared[i][0][lane];
        for (unsigned other = 1; other < SUMMED_WARPS; other++) sums[i] += shared[i][other][lane];
    }
    store(column, sums);
}

// `x` rounded to the nearest TF32 number (11 bits of precision). Infinities and NaNs stay what they are.
__device__ __forceinline__ float to_tf32(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return x;
    return __uint_as_float((bits + 0x1000u) & 0xffffe000u);
}

// Products on tensor cores, each factor split in two TF32 numbers. Tensor cores truncate their sums: so a kernel keeps none there for
// more than a tile. Below sm_80, whose tensor cores know no TF32, the same code computes in float32 (FMA).

#if __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1
#else
#define TENSOR_CORES 0
#endif

// A number as the product below takes it: high + low.
struct Parts {
    unsigned high, low;
};

__device__ __forceinline__ Parts split(float x) {
    if (!TENSOR_CORES) return {__float_as_uint(x), 0};
    // To the nearest TF32; the tensor core drops what low has beyond TF32. A NaN that rounding loses is still in low.
    unsigned high = (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
    return {high, __float_as_uint(x - __uint_as_float(high))};
}

// A warp's factors of a product of 16 x 8 and 8 x 8 numbers, in the layout of mma.m16n8k8: with group = lane / 4 and place =
// lane % 4, left[i] is row group + 8 * (i % 2), column place + 4 * (i / 2); right[i] is row place + 4 * i, column group; of the
// product, value i is row group + 8 * (i / 2), column 2 * place + i % 2.
struct Left {
    Parts at[4];
};
struct Right {
    Parts at[2];
};

struct Product {
    float at[4];
};

// c + a b, of TF32 numbers on tensor cores, of float32 numbers without them: there a function that is called, because its text
// repeated at every place would take minutes to compile.
#if TENSOR_CORES
__device__ __forceinline__
#else
__device__ __noinline__
#endif
Product mma(Product c, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
#if TENSOR_CORES && defined(GPU_ON_CPU)
    gpu_on_cpu::mma_m16n8k8_tf32(c.at, {a0, a1, a2, a3}, {b0, b1});
#elif TENSOR_CORES
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c.at[0]), "+f"(c.at[1]), "+f"(c.at[2]), "+f"(c.at[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
    unsigned lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (unsigned k = 0; k < 8; k++) {
        unsigned left = group * 4 + k % 4, right = 2 * place * 4 + k % 4;
        float x0 = __uint_as_float(__shfl_sync(ALL_LANES, k < 4 ? a0 : a2, left));
        float x1 = __uint_as_float(__shfl_sync(ALL_LANES, k < 4 ? a1 : a3, left));
        float y0 = __uint_as_float(__shfl_sync(ALL_LANES, k < 4 ? b0 : b1, right));
        float y1 = __uint_as_float(__shfl_sync(ALL_LANES, k < 4 ? b0 : b1, right + 4));
        c.at[0] = fmaf(x0, y0, c.at[0]);
        c.at[1] = fmaf(x0, y1, c.at[1]);
        c.at[2] = fmaf(x1, y0, c.at[2]);
        c.at[3] = fmaf(x1, y1, c.at[3]);
    }
#endif
    return c;
}

// c += the small products of a and b: nothing without tensor cores, where there is one product.
__device__ __forceinline__ void multiply_low(Product &c, const Left &a, const Right &b) {
    if (!TENSOR_CORES) return;
    c = mma(c, a.at[0].low, a.at[1].low, a.at[2].low, a.at[3].low, b.at[0].high, b.at[1].high);
    c = mma(c, a.at[0].high, a.at[1].high, a.at[2].high, a.at[3].high, b.at[0].low, b.at[1].low);
}

__device__ __forceinline__ void multiply_high(Product &c, const Left &a, const Right &b) {
    c = mma(c, a.at[0].high, a.at[1].high, a.at[2].high, a.at[3].high, b.at[0].high, b.at[1].high);
}
