// Sums and products of elements.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | add_parts | out = sum of the parts of in [parts][rows][columns], in order, + bias (or null) + out (if accumulate). There are `sources` biases (1 to 3) side by side, each for columns / sources | MATRIX(rows, columns) |
// | add_gradients | of each slot, out [n] = sum of the parts of in, which begin `stride` apart, in order, + out (if accumulate); see below | (sum over the slots of ceil(n / 256), 1, 1), 256 |
// | column_sums | partial [ceil(rows / 128)][columns]: sums of 128 rows each; x(row, column) = x[row * stride + column]. add_parts with one row finishes it | SUMS(rows, columns) |
// | add_rows | x[row] += table[row % table_rows] | MATRIX(rows, columns) |
// | multiply | out = a * b | FLAT(n) |
// | scale_by | x *= scalar[0] | FLAT(n) |
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

// A gradient that is left in parts. first_block[s] is the first block of slot s: the sum of ceil(n / 256) over the slots before it.
// No slot is empty, and no two have the same place.
struct PartialSum {
    float *out;
    const float *in;
    unsigned parts, stride, n, accumulate;
};

extern "C" __global__ void __launch_bounds__(256)
add_gradients(const PartialSum *slots, const unsigned *first_block, unsigned slots_count) {
    unsigned slot = slot_of_block(first_block, slots_count);
    PartialSum sum = slots[slot];
    unsigned i = (blockIdx.x - first_block[slot]) * 256 + threadIdx.x;
    if (i >= sum.n) return;
    float total = add_up(sum.in, sum.parts, sum.stride, i);
    sum.out[i] = sum.accumulate ? total + sum.out[i] : total;
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
