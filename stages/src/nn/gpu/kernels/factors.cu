// Factors of products for tensor cores.
//
// A factor is a matrix F[count][inner]: `count` rows of the product's result, `inner` the dimension that is summed over.
// F(i, k) = in[i * count_stride + k * inner_stride], in elements. One to three equal matrices may be put side by side, along
// `count` (along_inner = 0) or along `inner` (along_inner = 1); those not used are null.
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | split_factor | out [parts][count][3 * cut], parts = ceil(inner / cut): of the columns [p * cut, (p + 1) * cut) of F the left factor's (right = 0) low, high, high, or the right factor's (right = 1) high, low, high; zeros beyond `inner` | (ceil(parts * cut / 32), ceil(count / 32), 1), 256 |
// | round_factor | out [count][inner] in bfloat16, to the nearest, ties to even | (ceil(inner / 32), ceil(count / 32), 1), 256 |
//
// high is x rounded to TF32, low the rest rounded to TF32. A product of a left and a right factor is then low * high + high * low
// + high * high: x * y to about 22 bits, the small products first, because tensor cores truncate their sums.

#define TILE 32u
#define TILE_ROWS 8u     // that a block of 256 takes at once

struct Factor {
    const float *in[3];
    unsigned sources, along_inner, count, inner;
    size_t count_stride, inner_stride;

    __device__ __forceinline__ float at(unsigned i, unsigned k) const {
        if (i >= count || k >= inner) return 0.0f;
        unsigned source = 0;
        if (sources > 1) {
            unsigned &place = along_inner ? k : i, length = (along_inner ? inner : count) / sources;
            source = place / length;
            place -= source * length;
        }
        return (source == 0 ? in[0] : source == 1 ? in[1] : in[2])[i * count_stride + k * inner_stride];
    }
};

// store(i, k, F(i, k)) for a tile of `count` x `columns`. Reads follow the stride of 1, writes follow k: a tile in shared memory
// turns one into the other.
template <typename Store>
__device__ __forceinline__ void each_of_tile(const Factor &factor, unsigned columns, Store store) {
    __shared__ float tile[TILE][TILE + 1];
    unsigned lane = threadIdx.x % TILE, first = threadIdx.x / TILE, i0 = blockIdx.y * TILE, k0 = blockIdx.x * TILE;
    bool along_k = factor.inner_stride == 1;
#pragma unroll
    for (unsigned other = 0; other < TILE; other += TILE_ROWS) {
        unsigned i = along_k ? other + first : lane, k = along_k ? lane : other + first;
        tile[i][k] = factor.at(i0 + i, k0 + k);
    }
    __syncthreads();
    unsigned k = k0 + lane;
    if (k >= columns) return;
#pragma unroll
    for (unsigned other = 0; other < TILE; other += TILE_ROWS) {
        unsigned i = i0 + other + first;
        if (i < factor.count) store(i, k, tile[other + first][lane]);
    }
}

extern "C" __global__ void __launch_bounds__(256)
split_factor(float *out, const float *in0, const float *in1, const float *in2, unsigned sources, unsigned along_inner,
             unsigned count, unsigned inner, size_t count_stride, size_t inner_stride, unsigned cut, unsigned right) {
    Factor factor = {{in0, in1, in2}, sources, along_inner, count, inner, count_stride, inner_stride};
    unsigned columns = (inner + cut - 1) / cut * cut;
    each_of_tile(factor, columns, [=](unsigned i, unsigned k, float x) {
        float high = to_tf32(x), low = to_tf32(x - high);
        float *to = out + ((size_t)(k / cut) * count + i) * 3 * cut + k % cut;
        to[0] = right ? high : low;
        to[cut] = right ? low : high;
        to[2 * (size_t)cut] = high;
    });
}

__device__ __forceinline__ unsigned short to_bfloat16(float x) {
    unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;                 // NaN
    return (unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

extern "C" __global__ void __launch_bounds__(256)
round_factor(unsigned short *out, const float *in0, const float *in1, const float *in2, unsigned sources, unsigned along_inner,
             unsigned count, unsigned inner, size_t count_stride, size_t inner_stride) {
    Factor factor = {{in0, in1, in2}, sources, along_inner, count, inner, count_stride, inner_stride};
    each_of_tile(factor, inner, [=](unsigned i, unsigned k, float x) { out[(size_t)i * inner + k] = to_bfloat16(x); });
}
