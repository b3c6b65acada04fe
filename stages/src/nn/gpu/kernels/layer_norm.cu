// LayerNorm with what precedes it: the parts of a product, its bias, dropout and the residual.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | norm_forward | d = dropout(sum of the parts of in + bias (or null)), element places[row] * width + column, or row * width + column where places is null; s = d + residual (or null); u = apart ? d : s; normal (or null) = (u - mean) * scale; scale (or null) = 1 / sqrt(variance + eps) of each row; sum (or null) = s; y = normal * weight + shift | ROWS(rows) |
// | norm_output | y = normal * weight + shift | MATRIX(rows, width) |
// | norm_backward | h = (sum of the parts of grad) * weight; g = scale * (h - mean(h) - normal * mean(h * normal)) + plus (or null); sum (or null) = g; dropped (or null) = g under the mask, elements as in norm_forward | ROWS(rows) |
// | norm_parameter_sums | partial [ceil(rows / 128)][2 * width]: sums over 128 rows each of grad * normal, then of grad. add_parts with one row finishes it | SUMS(rows, width) |
//
// The variance is the mean of squared centred values. With one part, outputs may be inputs.
// A lane keeps its values of a row in registers, where the row has at most 1024 of them, and in the output (y; sum or dropped)
// otherwise: there a longer row must not share its output with `plus` or `residual`.

// run(MOST) with the most values that a lane has of a row of `width`: 0 means too many for registers.
#define BY_WIDTH(width, run)        \
    if ((width) <= 8 * WARP)        \
        run(8);                     \
    else if ((width) <= 24 * WARP)  \
        run(24);                    \
    else if ((width) <= 32 * WARP)  \
        run(32);                    \
    else                            \
        run(0)

// A lane's values of a row.
template <unsigned MOST> struct Held {
    float values[MOST];
    __device__ __forceinline__ Held(float *) {}
    __device__ __forceinline__ float &at(unsigned k, unsigned) { return values[k]; }
};
template <> struct Held<0> {
    float *row;
    __device__ __forceinline__ Held(float *row) : row(row) {}
    __device__ __forceinline__ float &at(unsigned, unsigned column) { return row[column]; }
};

// each(k, column) for the columns of a lane.
template <unsigned MOST, typename Each> __device__ __forceinline__ void each_column(unsigned width, Each each) {
    unsigned lane = threadIdx.x % WARP;
    if constexpr (MOST == 0) {
        for (unsigned column = lane; column < width; column += WARP) each(0, column);
    } else {
#pragma unroll
        for (unsigned k = 0; k < MOST; k++)
            if (k * WARP + lane < width) each(k, k * WARP + lane);
    }
}

// The row's sums of the parts of `in`, part by part: the loads of a part overlap.
template <unsigned MOST>
__device__ __forceinline__ void add_up_row(Held<MOST> &sums, const float *in, unsigned parts, size_t size, unsigned width) {
    each_column<MOST>(width, [&](unsigned k, unsigned c) { sums.at(k, c) = in[c]; });
    for (unsigned part = 1; part < parts; part++)
        each_column<MOST>(width, [&](unsigned k, unsigned c) { sums.at(k, c) += in[part * size + c]; });
}

struct Forward {
    float *y, *normal, *scale, *sum;
    const float *in, *bias, *residual, *weight, *shift;
    Mask mask;
    unsigned parts, apart, rows, width;
    float eps;
};

template <unsigned MOST> __device__ __forceinline__ void forward_row(const Forward &of, unsigned row) {
    size_t start = (size_t)row * of.width, size = (size_t)of.rows * of.width;
    Held<MOST> u(of.y + start);
    float mean = 0.0f, variance = 0.0f;
    add_up_row<MOST>(u, of.in + start, of.parts, size, of.width);
    each_column<MOST>(of.width, [&](unsigned k, unsigned c) {
        float d = u.at(k, c);
        if (of.bias) d += of.bias[c];
        d *= factor(of.mask, (unsigned)start + c);
        float s = of.residual ? d + of.residual[start + c] : d;
        if (of.sum) of.sum[start + c] = s;
        u.at(k, c) = of.apart ? d : s;
        mean += u.at(k, c);
    });
    mean = warp_sum(mean) / of.width;
    each_column<MOST>(of.width, [&](unsigned k, unsigned c) {
        float centred = u.at(k, c) - mean;
        variance += centred * centred;
    });
    variance = warp_sum(variance) / of.width;
    float scale = 1.0f / sqrtf(variance + of.eps);
    if (of.scale && threadIdx.x % WARP == 0) of.scale[row] = scale;
    each_column<MOST>(of.width, [&](unsigned k, unsigned c) {
        float normal = (u.at(k, c) - mean) * scale;
        if (of.normal) of.normal[start + c] = normal;
        of.y[start + c] = normal * of.weight[c] + of.shift[c];
    });
}

extern "C" __global__ void __launch_bounds__(128, 6)
norm_forward(float *y, float *normal, float *scale, float *sum, const float *in, unsigned parts, const float *bias, Mask mask,
             const unsigned *places, const float *residual, unsigned apart, const float *weight, const float *shift, unsigned rows,
             unsigned width, float eps) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    if (places) mask.first += (places[row] - row) * width;
    Forward of = {y, normal, scale, sum, in, bias, residual, weight, shift, mask, parts, apart, rows, width, eps};
#define RUN(MOST) forward_row<MOST>(of, row)
    BY_WIDTH(width, RUN);
#undef RUN
}

extern "C" __global__ void __launch_bounds__(256)
norm_output(float *y, const float *normal, const float *weight, const float *shift, unsigned rows, unsigned width) {
    each_element(
        rows, width, [=](size_t row, size_t c) { return normal[row * width + c] * weight[c] + shift[c]; },
        [=](size_t row, size_t c, float out) { y[row * width + c] = out; });
}

struct Backward {
    float *sum, *dropped;
    const float *grad, *normal, *scale, *weight, *plus;
    Mask mask;
    unsigned parts, rows, width;
};

template <unsigned MOST> __device__ __forceinline__ void backward_row(const Backward &of, unsigned row) {
    size_t start = (size_t)row * of.width, size = (size_t)of.rows * of.width;
    Held<MOST> h(of.sum ? of.sum + start : of.dropped + start);
    float mean = 0.0f, along = 0.0f;
    add_up_row<MOST>(h, of.grad + start, of.parts, size, of.width);
    each_column<MOST>(of.width, [&](unsigned k, unsigned c) {
        h.at(k, c) *= of.weight[c];
        mean += h.at(k, c);
        along += h.at(k, c) * of.normal[start + c];
    });
    mean = warp_sum(mean) / of.width;
    along = warp_sum(along) / of.width;
    float scale = of.scale[row];
    each_column<MOST>(of.width, [&](unsigned k, unsigned c) {
        float g = scale * (h.at(k, c) - mean - of.normal[start + c] * along);
        if (of.plus) g += of.plus[start + c];
        if (of.sum) of.sum[start + c] = g;
        if (of.dropped) of.dropped[start + c] = g * factor(of.mask, (unsigned)start + c);
    });
}

extern "C" __global__ void __launch_bounds__(128)
norm_backward(float *sum, float *dropped, const float *grad, unsigned parts, const float *normal, const float *scale,
              const float *weight, const float *plus, Mask mask, const unsigned *places, unsigned rows, unsigned width) {
    unsigned row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    if (places) mask.first += (places[row] - row) * width;
    Backward of = {sum, dropped, grad, normal, scale, weight, plus, mask, parts, rows, width};
#define RUN(MOST) backward_row<MOST>(of, row)
    BY_WIDTH(width, RUN);
#undef RUN
}

extern "C" __global__ void __launch_bounds__(256)
norm_parameter_sums(float *partial, const float *grad, unsigned parts, const float *normal, unsigned rows, unsigned width) {
    size_t size = (size_t)rows * width;
    each_column_sum<2>(
        rows, width,
        [=](float *sums, size_t row, size_t c) {
            float g = add_up(grad, parts, size, row * width + c);
            sums[0] += g * normal[row * width + c];
            sums[1] += g;
        },
        [=](size_t c, const float *sums) {
            float *to = partial + (size_t)blockIdx.y * 2 * width + c;
            to[0] = sums[0];
            to[width] = sums[1];
        });
}
