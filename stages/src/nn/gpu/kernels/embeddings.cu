// Rows: gathered, scattered, joined, and the gradient of the word embeddings.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | embed_text | out[row] = words[ids[row]] + positions[row % tokens] + types[0] | MATRIX(rows, width) |
// | embed_gradient | words_grad[id] += sum of the rows of grad [count][width] whose id it is, in order; nothing for `pad` | (count, 1, 1), 256 |
// | concat | out [batch][tokens + regions_count]: of each the rows of text [batch][tokens], then of regions [batch][regions_count] | MATRIX(batch * (tokens + regions_count), width) |
// | split_concat | text (or null) and regions (or null) from grad: the inverse of concat | MATRIX(batch * (tokens + regions_count), width) |
// | first_rows | out[b] = x[starts[b]], where starts is null x[b * length] | MATRIX(batch, width) |
// | add_first_rows | x at the same rows += first[b] | MATRIX(batch, width) |
// | select_rows | out[i] = x[places[i]] | MATRIX(count, width) |
// | scatter_rows | out[places[i]] = x[i]; places are distinct | MATRIX(count, width) |
//
// Ids and places are the caller's to check: they are not compared with the sizes of tables.

extern "C" __global__ void __launch_bounds__(256)
embed_text(float *out, const unsigned *ids, const float *words, const float *positions, const float *types, unsigned rows,
           unsigned tokens, unsigned width) {
    each_element(
        rows, width,
        [=](size_t row, size_t c) {
            return words[(size_t)ids[row] * width + c] + positions[row % tokens * width + c] + types[c];
        },
        [=](size_t row, size_t c, float sum) { out[row * width + c] = sum; });
}

// A block for each place of the text. The block of an id's first place adds up all of its rows; the others end.
extern "C" __global__ void __launch_bounds__(256)
embed_gradient(float *words_grad, const unsigned *ids, const float *grad, unsigned count, unsigned width, unsigned pad) {
    __shared__ unsigned found[256 / WARP];         // which of 256 places have the id, a bit each
    unsigned place = blockIdx.x, id = ids[place], thread = threadIdx.x;
    if (id == pad) return;
    bool earlier = false;
    for (unsigned other = thread; other < place; other += 256) earlier |= ids[other] == id;
    if (__syncthreads_or(earlier)) return;
    for (unsigned first = 0; first < width; first += 256 * AT_ONCE) {
        float sums[AT_ONCE] = {};
        for (unsigned begin = place; begin < count; begin += 256) {
            unsigned other = begin + thread;
            unsigned same = __ballot_sync(ALL_LANES, other < count && ids[other] == id);
            __syncthreads();
            if (thread % WARP == 0) found[thread / WARP] = same;
            __syncthreads();
            for (unsigned warp = 0; warp < 256 / WARP; warp++)
                for (unsigned bits = found[warp]; bits; bits &= bits - 1) {
                    const float *row = grad + (size_t)(begin + warp * WARP + __ffs((int)bits) - 1) * width;
#pragma unroll
                    for (unsigned k = 0; k < AT_ONCE; k++) {
                        unsigned c = first + k * 256 + thread;
                        if (c < width) sums[k] += row[c];
                    }
                }
        }
#pragma unroll
        for (unsigned k = 0; k < AT_ONCE; k++) {
            unsigned c = first + k * 256 + thread;
            if (c < width) words_grad[(size_t)id * width + c] += sums[k];
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
concat(float *out, const float *text, const float *regions, unsigned batch, unsigned tokens, unsigned regions_count, unsigned width) {
    unsigned length = tokens + regions_count;
    each_element(
        batch * length, width,
        [=](size_t row, size_t c) {
            size_t b = row / length, at = row % length;
            return at < tokens ? text[(b * tokens + at) * width + c] : regions[(b * regions_count + at - tokens) * width + c];
        },
        [=](size_t row, size_t c, float x) { out[row * width + c] = x; });
}

extern "C" __global__ void __launch_bounds__(256)
split_concat(float *text, float *regions, const float *grad, unsigned batch, unsigned tokens, unsigned regions_count, unsigned width) {
    unsigned length = tokens + regions_count;
    each_element(
        batch * length, width,
        [=](size_t row, size_t c) { return (row % length < tokens ? text : regions) ? grad[row * width + c] : 0.0f; },
        [=](size_t row, size_t c, float x) {
            size_t b = row / length, at = row % length;
            float *to = at < tokens ? text : regions;
            if (to) to[(at < tokens ? b * tokens + at : b * regions_count + at - tokens) * width + c] = x;
        });
}

extern "C" __global__ void __launch_bounds__(256)
first_rows(float *out, const float *x, const unsigned *starts, unsigned batch, unsigned length, unsigned width) {
    each_element(
        batch, width, [=](size_t b, size_t c) { return x[(starts ? starts[b] : b * length) * width + c]; },
        [=](size_t b, size_t c, float y) { out[b * width + c] = y; });
}

extern "C" __global__ void __launch_bounds__(256)
add_first_rows(float *x, const float *first, const unsigned *starts, unsigned batch, unsigned length, unsigned width) {
    each_element(
        batch, width, [=](size_t b, size_t c) { return x[(starts ? starts[b] : b * length) * width + c] + first[b * width + c]; },
        [=](size_t b, size_t c, float sum) { x[(starts ? starts[b] : b * length) * width + c] = sum; });
}

extern "C" __global__ void __launch_bounds__(256)
select_rows(float *out, const float *x, const unsigned *places, unsigned count, unsigned width) {
    each_element(
        count, width, [=](size_t i, size_t c) { return x[(size_t)places[i] * width + c]; },
        [=](size_t i, size_t c, float y) { out[i * width + c] = y; });
}

extern "C" __global__ void __launch_bounds__(256)
scatter_rows(float *out, const float *x, const unsigned *places, unsigned count, unsigned width) {
    each_element(
        count, width, [=](size_t i, size_t c) { return x[i * width + c]; },
        [=](size_t i, size_t c, float y) { out[(size_t)places[i] * width + c] = y; });
}
