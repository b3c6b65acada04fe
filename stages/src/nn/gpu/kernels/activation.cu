// Activations, with the bias before them and the parts of the product that they follow.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | activate | value = sum of the parts of in + bias (or null); before = value (or null); y = f(value) | MATRIX(rows, columns) |
// | activate_backward | grad_out = (sum of the parts of grad_in) * f'(before); y = f(before) (or null) | MATRIX(rows, columns) |
//
// kind: 0 GELU (with erf), 1 ReLU (derivative 0 at 0), 2 tanh. y may be before; with one part, outputs may be inputs.

enum { GELU, RELU, TANH };

// f(x) and f'(x). A derivative that is not read costs nothing.
struct Activated {
    float y, slope;
};

__device__ __forceinline__ Activated activated(unsigned kind, float x) {
    if (kind == GELU) {
        // x Phi(x), and Phi(x) + x phi(x), of the normal distribution.
        float below = 0.5f * (1.0f + erff(x * 0.707106781f));
        return {x * below, below + x * 0.398942280f * expf(-0.5f * x * x)};
    }
    if (kind == RELU) return x <= 0.0f ? Activated{0.0f, 0.0f} : Activated{x, 1.0f};   // NaN stays NaN
    float y = tanhf(x);
    return {y, 1.0f - y * y};
}

extern "C" __global__ void __launch_bounds__(256)
activate(float *y, float *before, const float *in, unsigned parts, const float *bias, unsigned rows, unsigned columns, unsigned kind) {
    size_t size = (size_t)rows * columns;
    each_element(
        rows, columns,
        [=](size_t row, size_t column) {
            float value = add_up(in, parts, size, row * columns + column);
            return bias ? value + bias[column] : value;
        },
        [=](size_t row, size_t column, float value) {
            size_t at = row * columns + column;
            if (before) before[at] = value;
            y[at] = activated(kind, value).y;
        });
}

extern "C" __global__ void __launch_bounds__(256)
activate_backward(float *grad_out, float *y, const float *grad_in, unsigned parts, const float *before, unsigned rows,
                  unsigned columns, unsigned kind) {
    struct Pair {
        float grad, before;
    };
    size_t size = (size_t)rows * columns;
    each_element(
        rows, columns,
        [=](size_t row, size_t column) {
            size_t at = row * columns + column;
            return Pair{add_up(grad_in, parts, size, at), before[at]};
        },
        [=](size_t row, size_t column, Pair pair) {
            size_t at = row * columns + column;
            Activated f = activated(kind, pair.before);
            if (y) y[at] = f.y;
            grad_out[at] = pair.grad * f.slope;
        });
}
