// Sums and products of elements.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | add_parts | out = sum of the parts of in [parts][rows][columns], in order, + bias (or null) + out (if accumulate). There are `sources` biases (1 to 3) side by side, each for columns / sources | MATRIX(rows, columns) |
// | add_gradients | out0, out1 and out2 (or null), `sources` of them (1 to 3), each of `size`: sum of the parts of in [parts][sources][size], in order, + what is there (if its bit of accumulate is 1) | MATRIX(sources, size) |
// | column_sums | partial [ceil(rows / 128)][columns]: sums of 128 rows each; x(row, column) = x[row * stride + column]. add_parts with one row finishes it | SUMS(rows, columns) |
// | add_rows | x[row] += table[row % table_rows] | MATRIX(rows, columns) |
// | multiply | out = a * b | FLAT(n) |
// | scale_by | x *= scalar[0] | FLAT(n) |
// | add_to | x += y | FLAT(n) |
//
// In place: an output may be the buffer of an input that is read at the same place (add_parts: where parts = 1).

extern "C" __global__ void __launch_bounds__(256)
add_parts(float *out, const float *in, unsigned parts, const float *bias0, const float *bias1, const float *bias2, unsigned sources,
          unsigned rows, unsigned columns, unsigned accumulate) {
    size_t size = (size_t)rows * columns;
    unsigned width = columns / sources;
    each_element(
        rows, columns,
        [=](size_t row, size_t column) {
            size_t at = row * columns + column;
            float sum = add_up(in, parts, size, at);
            unsigned source = (unsigned)column / width;
            const float *bias = source == 0 ? bias0 : source == 1 ? bias1 : bias2;
            if (bias) sum += bias[column - source * width];
            return accumulate ? sum + out[at] : sum;
        },
        [=](size_t row, size_t column, float sum) { out[row * columns + column] = sum; });
}

extern "C" __global__ void __launch_bounds__(256)
add_gradients(float *out0, float *out1, float *out2, const float *in, unsigned parts, unsigned sources, unsigned size,
              unsigned accumulate) {
    auto place = [=](size_t source) { return source == 0 ? out0 : source == 1 ? out1 : out2; };
    each_element(
        sources, size,
        [=](size_t source, size_t i) {
            float *out = place(source);
            if (!out) return 0.0f;
            float sum = add_up(in, parts, (size_t)sources * size, source * size + i);
            return accumulate >> source & 1 ? sum + out[i] : sum;
        },
        [=](size_t source, size_t i, float sum) {
            if (float *out = place(source)) out[i] = sum;
        });
}

extern "C" __global__ void __launch_bounds__(256)
column_sums(float *partial, const float *x, unsigned rows, unsigned columns, unsigned stride) {
    each_column_sum<1>(
        rows, columns, [=](float *sums, size_t row, size_t column) { sums[0] += x[row * stride + column]; },
        [=](size_t column, const float *sums) { partial[(size_t)blockIdx.y * columns + column] = sums[0]; });
}

extern "C" __global__ void __launch_bounds__(256)
add_rows(float *x, unsigned rows, unsigned columns, const float *table, unsigned table_rows) {
    each_element(
        rows, columns,
        [=](size_t row, size_t column) {
            return x[row * columns + column] + table[row % table_rows * columns + column];
        },
        [=](size_t row, size_t column, float sum) { x[row * columns + column] = sum; });
}

extern "C" __global__ void __launch_bounds__(256) multiply(float *out, const float *a, const float *b, unsigned n) {
    each_value(n, [=](size_t i) { return a[i] * b[i]; }, [=](size_t i, float y) { out[i] = y; });
}

extern "C" __global__ void __launch_bounds__(256) scale_by(float *x, const float *scalar, unsigned n) {
    float scale = scalar[0];
    each_value(n, [=](size_t i) { return x[i] * scale; }, [=](size_t i, float y) { x[i] = y; });
}

extern "C" __global__ void __launch_bounds__(256) add_to(float *x, const float *y, unsigned n) {
    each_value(n, [=](size_t i) { return x[i] + y[i]; }, [=](size_t i, float sum) { x[i] = sum; });
}
