// Convolutions of one picture, channels last: element (place, channel) of a map is map[place * channels + channel].
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | conv_W | out = f(sum over the window and the channels of a group of x * weight + (addend + bias)) | (ceil(rows / 128) * ceil(of_group / W), 1, groups), 256 |
// | winograd_input | tiles [36][tiles][channels]: the transformed tiles of 6 x 6 of x, with a pixel of zeros around it | FLAT(tiles * channels) |
// | winograd_output | out = f(the tiles of 4 x 4 of products [36][tiles][channels], transformed back, + (addend + bias)) | FLAT(tiles * channels) |
// | max_pool | the greatest of each window of window x window places, 2 apart | MATRIX(rows of out, channels) |
//
// W is 8, 16, 32, 64 or 128. weight is [outputs][window][window][channels of a group]. bias and addend may be null; f is a ReLU or
// nothing. A linear layer is a convolution whose rows are places of a line. A group is one of a grouped convolution, or one of several
// products of equal size, as Winograd's method has 36.
//
// conv_W is a product of the weights with the unrolled input, which is never in memory: a block computes 128 places x W outputs and
// reads the inner dimension, window by channel, in steps of 16. Sums stay on the tensor cores for 32 steps of the inner dimension: what
// truncation takes of them is then as much as rounding would. The steps are added in float32, in order.

#define ROWS 128u
#define DEPTH 16u                       // of the inner dimension, in shared memory at once
#define LINE (DEPTH / 4u + 1u)          // float4 from one line in shared memory to the next: lanes then read different banks
#define KEPT_TILES 2u                   // that sums stay on the tensor cores for

struct Input {
    unsigned height, width, channels, window, stride, padding;
};

struct Output {
    unsigned rows, width, channels, of_group;
    unsigned is_half;                   // addend is a map of half the height and width, each of whose places is read four times
    unsigned relu;
};

// From one group to the next, in elements.
struct Steps {
    size_t x, weight, out;
};

__device__ __forceinline__ float finished(float sum, size_t channel, size_t place, const float *bias, const float *addend, unsigned relu) {
    float more = bias ? bias[channel] : 0.0f;
    if (addend) more = addend[place] + more;
    float y = sum + more;
    return relu && y <= 0.0f ? 0.0f : y;                                  // NaN stays NaN
}

// What a thread reads of x: four channels at a place of the window, of one output's window.
struct Reader {
    const float *x;
    Input in;
    unsigned depth, inner;
    int top, left;                      // of the window; far above the map where there is no output

    __device__ __forceinline__ float value(unsigned k) const {
        unsigned tap = in.window == 1 ? 0 : k / depth, c = k - tap * depth;
        unsigned row = (unsigned)(top + (int)(tap / in.window)), column = (unsigned)(left + (int)(tap % in.window));
        return k < inner && row < in.height && column < in.width ? x[((size_t)row * in.width + column) * in.channels + c] : 0.0f;
    }

    __device__ __forceinline__ float4 four(unsigned k) const {
        unsigned tap = in.window == 1 ? 0 : k / depth, c = k - tap * depth;
        unsigned row = (unsigned)(top + (int)(tap / in.window)), column = (unsigned)(left + (int)(tap % in.window));
        bool is_there = k < inner && row < in.height && column < in.width;
        if (!is_there) return {0.0f, 0.0f, 0.0f, 0.0f};
        return *(const float4 *)(x + ((size_t)row * in.width + column) * in.channels + c);
    }
};

template <unsigned COLUMNS, unsigned DOWN, unsigned ACROSS>
__device__ __forceinline__ void conv(float *out, const float *x, const float *weight, const float *bias, const float *addend,
                                     const Input &in, unsigned depth, const Output &of, const Steps &steps) {
    constexpr unsigned WARPS_ACROSS = COLUMNS / (8 * ACROSS), WEIGHTS = (COLUMNS + 63) / 64;
    static_assert(256 / WARP / WARPS_ACROSS * 16 * DOWN == ROWS, "the warps share the tile");
    __shared__ float4 tile_x[2][ROWS][LINE], tile_weight[2][COLUMNS][LINE];
    const unsigned lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4, warp = threadIdx.x / WARP;
    const unsigned blocks_across = (of.of_group + COLUMNS - 1) / COLUMNS;
    const unsigned first_row = blockIdx.x / blocks_across * ROWS, first_column = blockIdx.x % blocks_across * COLUMNS;
    const unsigned down = warp / WARPS_ACROSS * 16 * DOWN, across = warp % WARPS_ACROSS * 8 * ACROSS;
    const unsigned inner = in.window * in.window * depth;
    const bool in_fours = depth % 4 == 0;
    x += blockIdx.z * steps.x;
    weight += blockIdx.z * steps.weight;
    out += blockIdx.z * steps.out;

    // A thread reads four steps of two rows of x, and of one or two outputs' weights.
    const unsigned part = threadIdx.x % 4, line = threadIdx.x / 4;
    Reader readers[2];
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        unsigned row = first_row + line + 64 * i, y = row / of.width;
        bool is_there = row < of.rows;
        readers[i] = {x, in, depth, inner, is_there ? (int)(y * in.stride) - (int)in.padding : -(1 << 30),
                      (int)((row - y * of.width) * in.stride) - (int)in.padding};
    }
    float4 read_x[2], read_weight[WEIGHTS];
    auto fetch = [&](unsigned tile) {
        unsigned k = tile * DEPTH + 4 * part;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const Reader &reader = readers[i];
            if (in_fours) read_x[i] = reader.four(k);
            else read_x[i] = {reader.value(k), reader.value(k + 1), reader.value(k + 2), reader.value(k + 3)};
        }
#pragma unroll
        for (unsigned i = 0; i < WEIGHTS; i++) {
            unsigned column = line + 64 * i;
            read_weight[i] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (column >= COLUMNS || first_column + column >= of.of_group) continue;
            const float *from = weight + (size_t)(first_column + column) * inner + k;
            if (in_fours && k < inner) read_weight[i] = *(const float4 *)from;
            else if (k < inner)
                read_weight[i] = {from[0], k + 1 < inner ? from[1] : 0.0f, k + 2 < inner ? from[2] : 0.0f,
                                  k + 3 < inner ? from[3] : 0.0f};
        }
    };

    Product sums[DOWN][ACROSS] = {}, totals[DOWN][ACROSS] = {};
    const unsigned tiles = (inner + DEPTH - 1) / DEPTH;
    fetch(0);
    for (unsigned tile = 0; tile < tiles; tile++) {
        const unsigned now = tile % 2;
#pragma unroll
        for (unsigned i = 0; i < 2; i++) tile_x[now][line + 64 * i][part] = read_x[i];
#pragma unroll
        for (unsigned i = 0; i < WEIGHTS; i++)
            if (line + 64 * i < COLUMNS) tile_weight[now][line + 64 * i][part] = read_weight[i];
        __syncthreads();
        if (tile + 1 < tiles) fetch(tile + 1);
        if (first_row + down >= of.rows) continue;                        // a warp without outputs only helps to read
        const float *left = (const float *)tile_x[now][down], *right = (const float *)tile_weight[now][across];
        const unsigned stride = 4 * LINE;
#if TENSOR_CORES
#pragma unroll
        for (unsigned k = 0; k < DEPTH; k += 8) {
            Left a[DOWN];
#pragma unroll
            for (unsigned i = 0; i < DOWN; i++) {
                const float *from = left + (16 * i + group) * stride + k + place;
                a[i] = {{split(from[0]), split(from[8 * stride]), split(from[4]), split(from[8 * stride + 4])}};
            }
#pragma unroll
            for (unsigned j = 0; j < ACROSS; j++) {
                const float *from = right + (8 * j + group) * stride + k + place;
                Right b = {{split(from[0]), split(from[4])}};
#pragma unroll
                for (unsigned i = 0; i < DOWN; i++) multiply_low(sums[i][j], a[i], b);
#pragma unroll
                for (unsigned i = 0; i < DOWN; i++) multiply_high(sums[i][j], a[i], b);
            }
        }
#else
#pragma unroll 4
        for (unsigned k = 0; k < DEPTH; k++) {
            float a[DOWN][2], b[ACROSS][2];
#pragma unroll
            for (unsigned i = 0; i < 2 * DOWN; i++) a[i / 2][i % 2] = left[(8 * i + group) * stride + k];
#pragma unroll
            for (unsigned j = 0; j < 2 * ACROSS; j++) b[j / 2][j % 2] = right[(8 * (j / 2) + 2 * place + j % 2) * stride + k];
#pragma unroll
            for (unsigned i = 0; i < DOWN; i++)
#pragma unroll
                for (unsigned j = 0; j < ACROSS; j++)
#pragma unroll
                    for (unsigned n = 0; n < 4; n++) sums[i][j].at[n] = fmaf(a[i][n / 2], b[j][n % 2], sums[i][j].at[n]);
        }
#endif
        if (tile % KEPT_TILES + 1 < KEPT_TILES && tile + 1 < tiles) continue;
#pragma unroll
        for (unsigned i = 0; i < DOWN; i++)
#pragma unroll
            for (unsigned j = 0; j < ACROSS; j++)
#pragma unroll
                for (unsigned n = 0; n < 4; n++) {
                    totals[i][j].at[n] += sums[i][j].at[n];
                    sums[i][j].at[n] = 0.0f;
                }
    }
#pragma unroll
    for (unsigned i = 0; i < DOWN; i++)
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            unsigned row = first_row + down + 16 * i + group + 8 * half;
            if (row >= of.rows) continue;
            unsigned y = row / of.width, column_of_row = row - y * of.width;
            size_t added = of.is_half ? (size_t)(y / 2) * (of.width / 2) + column_of_row / 2 : row;
#pragma unroll
            for (unsigned j = 0; j < ACROSS; j++)
#pragma unroll
                for (unsigned n = 0; n < 2; n++) {
                    unsigned column = first_column + across + 8 * j + 2 * place + n;
                    if (column >= of.of_group) continue;
                    size_t channel = blockIdx.z * (size_t)of.of_group + column;
                    out[(size_t)row * of.channels + column] = finished(totals[i][j].at[2 * half + n], channel, added * of.channels + channel,
                                                                       bias, addend, of.relu);
                }
        }
}

#define KERNEL(COLUMNS, DOWN, ACROSS)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) conv_##COLUMNS(                                                             \
        float *out, const float *x, const float *weight, const float *bias, const float *addend, Input in, unsigned depth,        \
        Output of, Steps steps) {                                                                                                 \
        conv<COLUMNS, DOWN, ACROSS>(out, x, weight, bias, addend, in, depth, of, steps);                                          \
    }

KERNEL(8, 1, 1)
KERNEL(16, 1, 2)
KERNEL(32, 1, 4)
KERNEL(64, 2, 4)
KERNEL(128, 4, 4)

// Winograd's F(4x4, 3x3): the transforms of `nn/winograd.rs`, at the points 0, +-P, +-Q and infinity.
#define P 0.75f
#define Q 1.5f

__device__ __forceinline__ void of_input(float (&v)[6]) {
    const float PP = P * P, QQ = Q * Q;
    float a = v[0], b = v[1], c = v[2], d = v[3], e = v[4], f = v[5];
    float near = e - QQ * c, near_odd = P * (d - QQ * b), far = e - PP * c, far_odd = Q * (d - PP * b);
    v[0] = PP * QQ * a - (PP + QQ) * c + e;
    v[1] = near + near_odd;
    v[2] = near - near_odd;
    v[3] = far + far_odd;
    v[4] = far - far_odd;
    v[5] = PP * QQ * b - (PP + QQ) * d + f;
}

__device__ __forceinline__ void of_output(const float (&v)[6], float (&y)[4]) {
    float near = v[1] + v[2], near_odd = P * (v[1] - v[2]), far = v[3] + v[4], far_odd = Q * (v[3] - v[4]);
    y[0] = v[0] + near + far;
    y[1] = near_odd + far_odd;
    y[2] = P * P * near + Q * Q * far;
    y[3] = P * P * near_odd + Q * Q * far_odd + v[5];
}

extern "C" __global__ void __launch_bounds__(256)
winograd_input(float *tiles, const float *x, unsigned height, unsigned width, unsigned channels, unsigned count) {
    unsigned across = (width + 3) / 4;
    size_t all = (size_t)count * channels;
    for (size_t i = blockIdx.x * 256u + threadIdx.x; i < all; i += gridDim.x * 256u) {
        unsigned tile = (unsigned)(i / channels), channel = (unsigned)(i - (size_t)tile * channels);
        unsigned top = tile / across * 4, left = (tile - tile / across * across) * 4;
        float v[6][6];
#pragma unroll
        for (unsigned r = 0; r < 6; r++)
#pragma unroll
            for (unsigned c = 0; c < 6; c++) {
                unsigned row = top + r - 1, column = left + c - 1;        // that above row 0 is beyond the last one
                v[c][r] = row < height && column < width ? x[((size_t)row * width + column) * channels + channel] : 0.0f;
            }
#pragma unroll
        for (unsigned c = 0; c < 6; c++) of_input(v[c]);
#pragma unroll
        for (unsigned r = 0; r < 6; r++) {
            float line[6] = {v[0][r], v[1][r], v[2][r], v[3][r], v[4][r], v[5][r]};
            of_input(line);
#pragma unroll
            for (unsigned c = 0; c < 6; c++) tiles[(r * 6 + c) * all + i] = line[c];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
winograd_output(float *out, const float *products, const float *bias, const float *addend, unsigned height, unsigned width,
                unsigned channels, unsigned count, unsigned relu) {
    unsigned across = (width + 3) / 4;
    size_t all = (size_t)count * channels;
    for (size_t i = blockIdx.x * 256u + threadIdx.x; i < all; i += gridDim.x * 256u) {
        unsigned tile = (unsigned)(i / channels), channel = (unsigned)(i - (size_t)tile * channels);
        unsigned top = tile / across * 4, left = (tile - tile / across * across) * 4;
        float columns[6][4];
#pragma unroll
        for (unsigned c = 0; c < 6; c++) {
            float v[6];
#pragma unroll
            for (unsigned r = 0; r < 6; r++) v[r] = products[(r * 6 + c) * all + i];
            of_output(v, columns[c]);
        }
#pragma unroll
        for (unsigned r = 0; r < 4; r++) {
            float v[6] = {columns[0][r], columns[1][r], columns[2][r], columns[3][r], columns[4][r], columns[5][r]}, y[4];
            of_output(v, y);
#pragma unroll
            for (unsigned c = 0; c < 4; c++) {
                if (top + r >= height || left + c >= width) continue;
                size_t at = ((size_t)(top + r) * width + left + c) * channels + channel;
                out[at] = finished(y[c], channel, at, bias, addend, relu);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
max_pool(float *out, const float *x, unsigned height, unsigned width, unsigned channels, unsigned window) {
    unsigned out_height = (height + 1) / 2, out_width = (width + 1) / 2, padding = window / 2;
    each_element(
        out_height * out_width, channels,
        [=](size_t place, size_t channel) {
            unsigned top = (unsigned)place / out_width * 2 - padding, left = (unsigned)place % out_width * 2 - padding;
            float greatest = -INFINITY;
            for (unsigned r = 0; r < window; r++)
                for (unsigned c = 0; c < window; c++) {
                    if (top + r >= height || left + c >= width) continue; // what is above row 0 is beyond the last one
                    float value = x[((size_t)(top + r) * width + (left + c)) * channels + channel];
                    if (value > greatest || value != value) greatest = value;
                }
            return greatest;
        },
        [=](size_t place, size_t channel, float greatest) { out[place * channels + channel] = greatest; });
}
