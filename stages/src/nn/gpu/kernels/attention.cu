// Attention on chip: scores and probabilities never reach memory. The backward pass computes them again from the logarithm of
// each row's sum, which the forward pass keeps. No atomics: a kernel of its own for the queries and one for keys and values.
//
// p = softmax(q k^T * scale + bias[batch][key]); context = dropout(p) v, element ((batch * heads + head) * queries + query) * keys + key.
// Row (batch * queries + query) of q begins at q + row * q_stride + head * head_width, in elements; k and v likewise with `keys`
// and kv_stride, gradients with gq_stride and gkv_stride. context and grad are [batch][queries][heads * head_width]; logsum and
// delta [batch][heads][queries]. Batch = gridDim.z. head_width is at most W, which is 16, 32, 64 or 128.
//
// Where queries or keys are without padding, their rows are those of of_queries or of_keys, and a row of logsum and delta is one of
// the sequence. `queries` and `keys` are padded lengths all the same: they decide the grid and the elements of the mask.
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | attention_forward_W | context, and logsum (or null) | (ceil(queries / 64), heads, batch), 128 |
// | attention_delta | delta = sum of grad * context over each head's columns; rows are those of all sequences | ROWS(rows * heads) |
// | attention_backward_queries_W | grad_q | W up to 64: (ceil(queries / 64), heads, batch), 128; W = 128: (ceil(queries / 32), heads, batch), 64 |
// | attention_backward_keys_W | grad_k, grad_v | the same with keys in place of queries |
//
// bias may be null, and is so where keys are without padding. Where every key of a row is masked by -infinity its context is NaN,
// as that of a softmax is.
//
// Products run on tensor cores, each factor split in two TF32 numbers. Tensor cores truncate their sums: so small products are
// added up apart from large ones or before them, and no sum there runs over more than one tile. Below sm_80, whose tensor cores
// know no TF32, the same code computes in float32 (FMA).

#define PAD 4u           // columns after a row in shared memory: the lanes of a warp then read different banks

// Rows begin .. begin + ROWS of x (those below `end`), columns left .. left + width, times `scale` into shared memory, zeros where
// there are none.
template <unsigned ROWS, unsigned WIDTH>
__device__ __forceinline__ void fetch(float (&tile)[ROWS][WIDTH + PAD], const float *x, size_t stride, unsigned begin, unsigned end,
                                      unsigned left, unsigned width, float scale) {
    for (unsigned i = threadIdx.x; i < ROWS * WIDTH; i += blockDim.x) {
        unsigned row = i / WIDTH, column = i % WIDTH;
        tile[row][column] = begin + row < end && column < width ? x[(begin + row) * stride + left + column] * scale : 0.0f;
    }
}

// Which rows of a matrix sequences have. Padded, row r of sequence b is row b * length + r. Without padding, sequence b has the rows
// starts[b] to starts[b + 1], and places says which one each row is where they are padded. Masks go by the padded row.
struct Packing {
    const unsigned *starts, *places;    // null where the sequences are padded
};

// The rows of one sequence.
struct Sequence {
    unsigned begin, end;
    const unsigned *places;

    __device__ __forceinline__ Sequence(const Packing &of, unsigned b, unsigned length)
        : begin(of.starts ? of.starts[b] : b * length), end(of.starts ? of.starts[b + 1] : begin + length), places(of.places) {}
    // Which row `row` is where the sequences are padded.
    __device__ __forceinline__ unsigned place(unsigned row) const { return places ? places[row] : row; }
};

// The numbers of the ROWS rows of a sequence from `begin` on. The sum of those of a query and a key is their element of the mask: a
// key's is its place, a query's the rest.
template <unsigned ROWS>
__device__ __forceinline__ void number(unsigned (&numbers)[ROWS], const Sequence &of, unsigned begin, unsigned before, unsigned step) {
    for (unsigned i = threadIdx.x; i < ROWS; i += blockDim.x)
        numbers[i] = begin + i < of.end ? (before + of.place(begin + i)) * step : 0;
}

// The place in a left factor of value i of a product, if the columns of the factor are taken in the order 0, 2, 4, 6, 1, 3, 5, 7:
// a product is then the next one's left factor with no exchange between lanes. The right factor's rows must follow: 2 * place + i.
__device__ __forceinline__ unsigned as_left(unsigned i) { return (i >> 1) + 2 * (i & 1); }

struct Sizes {
    unsigned queries, keys, heads, head_width, q_stride, kv_stride;
    float scale;
};

// What comes before the place of a query in its number: element ((batch * heads + head) * queries + query) * keys + key of the mask
// has places batch * queries + query and batch * keys + key.
__device__ __forceinline__ unsigned before_query(const Sizes &of) {
    return (blockIdx.z * of.heads + blockIdx.y - blockIdx.z) * of.queries - blockIdx.z;
}

// Where in logsum and delta a row 0 of the block's head and sequence would be.
__device__ __forceinline__ unsigned first_sum(const Sequence &queries, const Sizes &of) {
    return (blockIdx.z * of.heads + blockIdx.y) * of.queries - queries.begin;
}

#define TILE 32u         // keys in shared memory at once, in the forward pass
#define QUERIES 64u      // of a block of the forward pass

template <unsigned WIDTH>
__device__ __forceinline__ void forward(float *context, float *logsum, const float *q, const float *k, const float *v,
                                        const float *bias, const Mask &mask, const Packing &of_queries, const Packing &of_keys,
                                        const Sizes &of) {
    __shared__ float tile_k[TILE][WIDTH + PAD], tile_v[TILE][WIDTH + PAD];
    __shared__ unsigned tile_query[QUERIES], tile_key[TILE];
    constexpr unsigned STEPS = WIDTH / 8, BLOCKS = TILE / 8;
    unsigned lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4;
    unsigned head = blockIdx.y, batch = blockIdx.z, left = head * of.head_width;
    const Sequence queries(of_queries, batch, of.queries), keys(of_keys, batch, of.keys);
    unsigned block = queries.begin + blockIdx.x * QUERIES, at = threadIdx.x / WARP * 16, first = block + at;
    if (block >= queries.end) return;
    number<QUERIES>(tile_query, queries, block, before_query(of), of.keys);
    float mine[STEPS][4];
#pragma unroll
    for (unsigned step = 0; step < STEPS; step++)
#pragma unroll
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = first + group + 8 * (i & 1), column = 8 * step + place + 4 * (i >> 1);
            bool is_there = row < queries.end && column < of.head_width;
            mine[step][i] = is_there ? q[row * (size_t)of.q_stride + left + column] * of.scale : 0.0f;
        }
    float sums[STEPS][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    for (unsigned begin = keys.begin; begin < keys.end; begin += TILE) {
        __syncthreads();
        fetch<TILE, WIDTH>(tile_k, k, of.kv_stride, begin, keys.end, left, of.head_width, 1.0f);
        fetch<TILE, WIDTH>(tile_v, v, of.kv_stride, begin, keys.end, left, of.head_width, 1.0f);
        number<TILE>(tile_key, keys, begin, 0, 1);
        __syncthreads();
        if (first >= queries.end) continue;            // a warp without queries only helps to fetch
        Product score[BLOCKS] = {}, low[BLOCKS] = {};
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
            Left a = {{split(mine[step][0]), split(mine[step][1]), split(mine[step][2]), split(mine[step][3])}};
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) {
                const float *from = &tile_k[8 * t + group][8 * step + place];
                Right b = {{split(from[0]), split(from[4])}};
                multiply_low(low[t], a, b);
                multiply_high(score[t], a, b);
            }
        }
        float most[2] = {largest[0], largest[1]}, shrink[2];
#pragma unroll
        for (unsigned t = 0; t < BLOCKS; t++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                unsigned key = begin + 8 * t + 2 * place + (i & 1);
                score[t].at[i] += low[t].at[i];
                if (bias && key < keys.end) score[t].at[i] += bias[key];
                if (key >= keys.end) score[t].at[i] = -INFINITY;
                most[i >> 1] = fmaxf(most[i >> 1], score[t].at[i]);
            }
#pragma unroll
        for (unsigned r = 0; r < 2; r++) {             // over the four lanes that share a row
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL_LANES, most[r], 1));
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL_LANES, most[r], 2));
            shrink[r] = most[r] == -INFINITY ? 1.0f : expf(largest[r] - most[r]);
            largest[r] = most[r];
            total[r] *= shrink[r];
        }
        Left p[BLOCKS];
#pragma unroll
        for (unsigned t = 0; t < BLOCKS; t++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                unsigned element = tile_query[at + group + 8 * (i >> 1)] + tile_key[8 * t + 2 * place + (i & 1)];
                float x = score[t].at[i] == -INFINITY ? 0.0f : expf(score[t].at[i] - largest[i >> 1]);
                total[i >> 1] += x;
                p[t].at[as_left(i)] = split(x * factor(mask, element));
            }
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
            Product part = {};
            Right b[BLOCKS];
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) {
                const float *from = &tile_v[8 * t + 2 * place][8 * step + group];
                b[t] = {{split(from[0]), split(from[WIDTH + PAD])}};
                multiply_low(part, p[t], b[t]);
            }
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) multiply_high(part, p[t], b[t]);
#pragma unroll
            for (unsigned i = 0; i < 4; i++) sums[step][i] = sums[step][i] * shrink[i >> 1] + part.at[i];
        }
    }
    if (first >= queries.end) return;
#pragma unroll
    for (unsigned r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(ALL_LANES, total[r], 1);
        total[r] += __shfl_xor_sync(ALL_LANES, total[r], 2);
        unsigned row = first + group + 8 * r;
        if (row >= queries.end) continue;
        if (logsum && place == 0) logsum[first_sum(queries, of) + row] = largest[r] + logf(total[r]);
        float *to = context + ((size_t)row * of.heads + head) * of.head_width;
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++)
#pragma unroll
            for (unsigned i = 0; i < 2; i++) {
                unsigned column = 8 * step + 2 * place + i;
                if (column < of.head_width) to[column] = sums[step][2 * r + i] / total[r];
            }
    }
}

extern "C" __global__ void __launch_bounds__(128)
attention_delta(float *delta, const float *grad, const float *context, Packing of_queries, unsigned rows, unsigned queries,
                unsigned heads, unsigned head_width) {
    unsigned lane = threadIdx.x % WARP, at = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (at >= rows * heads) return;
    unsigned row = at / heads, head = at % heads;
    size_t start = (size_t)at * head_width;
    float sum = 0.0f;
    for (unsigned column = lane; column < head_width; column += WARP) sum += grad[start + column] * context[start + column];
    sum = warp_sum(sum);
    if (lane > 0) return;
    unsigned batch = (of_queries.places ? of_queries.places[row] : row) / queries;
    delta[((size_t)batch * heads + head) * queries + row - Sequence(of_queries, batch, queries).begin] = sum;
}

#define STRIP 16u        // rows of the other side in shared memory at once, in the backward pass; 8 where rows are 128 wide

// What the backward pass reads. `grad` is the gradient of the context.
struct Read {
    const float *q, *k, *v, *bias, *logsum, *delta, *grad;
};

// The warps of a block have 16 rows each, queries or keys, and go over the rows of the other side. Of the scores s and of d = grad
// v^T a warp computes a tile of its rows and the other side's: p = exp(s - logsum), ds = p (kept * d - delta). Then
// grad_q = scale * ds k, grad_k = scale * ds^T q, grad_v = (kept * p)^T grad.
template <unsigned WIDTH, bool OF_QUERIES>
__device__ __forceinline__ void backward(float *first_out, float *second_out, const Read &from, const Mask &mask, const Packing &of_queries,
                                         const Packing &of_keys, const Sizes &of, unsigned out_stride) {
    constexpr unsigned MINE = WIDTH == 128 ? 32 : 64, OTHERS = WIDTH == 128 ? STRIP / 2 : STRIP, STEPS = WIDTH / 8, BLOCKS = OTHERS / 8;
    __shared__ float mine_a[MINE][WIDTH + PAD], mine_b[MINE][WIDTH + PAD], other_a[OTHERS][WIDTH + PAD], other_b[OTHERS][WIDTH + PAD];
    __shared__ unsigned mine_number[MINE], other_number[OTHERS];
    unsigned lane = threadIdx.x % WARP, group = lane / 4, place = lane % 4, at = threadIdx.x / WARP * 16;
    unsigned head = blockIdx.y, batch = blockIdx.z, width = of.head_width, left = head * width;
    const Sequence queries(of_queries, batch, of.queries), keys(of_keys, batch, of.keys);
    const Sequence &mine = OF_QUERIES ? queries : keys, &others = OF_QUERIES ? keys : queries;
    unsigned block = mine.begin + blockIdx.x * MINE, first = block + at, sums = first_sum(queries, of);
    if (block >= mine.end) return;
    size_t grad_stride = (size_t)of.heads * width;
    if (OF_QUERIES) {
        fetch<MINE, WIDTH>(mine_a, from.q, of.q_stride, block, mine.end, left, width, of.scale);
        fetch<MINE, WIDTH>(mine_b, from.grad, grad_stride, block, mine.end, left, width, 1.0f);
    } else {
        fetch<MINE, WIDTH>(mine_a, from.k, of.kv_stride, block, mine.end, left, width, 1.0f);
        fetch<MINE, WIDTH>(mine_b, from.v, of.kv_stride, block, mine.end, left, width, 1.0f);
    }
    number<MINE>(mine_number, mine, block, OF_QUERIES ? before_query(of) : 0, OF_QUERIES ? of.keys : 1);
    float sums_a[STEPS][4] = {}, sums_b[OF_QUERIES ? 1 : STEPS][4] = {};
    for (unsigned begin = others.begin; begin < others.end; begin += OTHERS) {
        __syncthreads();
        if (OF_QUERIES) {
            fetch<OTHERS, WIDTH>(other_a, from.k, of.kv_stride, begin, others.end, left, width, 1.0f);
            fetch<OTHERS, WIDTH>(other_b, from.v, of.kv_stride, begin, others.end, left, width, 1.0f);
        } else {
            fetch<OTHERS, WIDTH>(other_a, from.q, of.q_stride, begin, others.end, left, width, of.scale);
            fetch<OTHERS, WIDTH>(other_b, from.grad, grad_stride, begin, others.end, left, width, 1.0f);
        }
        number<OTHERS>(other_number, others, begin, OF_QUERIES ? 0 : before_query(of), OF_QUERIES ? 1 : of.keys);
        __syncthreads();
        if (first >= mine.end) continue;               // a warp without rows only helps to fetch
        Product s[BLOCKS] = {}, s_low[BLOCKS] = {}, d[BLOCKS] = {}, d_low[BLOCKS] = {};
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
            Left a, b;
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                unsigned row = at + group + 8 * (i & 1), column = 8 * step + place + 4 * (i >> 1);
                a.at[i] = split(mine_a[row][column]);
                b.at[i] = split(mine_b[row][column]);
            }
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) {
                const float *x = &other_a[8 * t + group][8 * step + place], *y = &other_b[8 * t + group][8 * step + place];
                Right right_a = {{split(x[0]), split(x[4])}}, right_b = {{split(y[0]), split(y[4])}};
                multiply_low(s_low[t], a, right_a);
                multiply_high(s[t], a, right_a);
                multiply_low(d_low[t], b, right_b);
                multiply_high(d[t], b, right_b);
            }
        }
        Left p[BLOCKS], ds[BLOCKS];
#pragma unroll
        for (unsigned t = 0; t < BLOCKS; t++)
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                unsigned row = group + 8 * (i >> 1), other = 8 * t + 2 * place + (i & 1);
                unsigned query = OF_QUERIES ? first + row : begin + other, key = OF_QUERIES ? begin + other : first + row;
                float probability = 0.0f, kept = 0.0f, delta = 0.0f;
                if (query < queries.end && key < keys.end) {
                    float score = s[t].at[i] + s_low[t].at[i] + (from.bias ? from.bias[key] : 0.0f);
                    probability = expf(score - from.logsum[sums + query]);
                    kept = factor(mask, mine_number[at + row] + other_number[other]);
                    delta = from.delta[sums + query];
                }
                p[t].at[as_left(i)] = split(probability * kept);
                ds[t].at[as_left(i)] = split(probability * ((d[t].at[i] + d_low[t].at[i]) * kept - delta));
            }
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
            Product part_a = {}, part_b = {};
            Right right_a[BLOCKS], right_b[BLOCKS];
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) {
                const float *x = &other_a[8 * t + 2 * place][8 * step + group], *y = &other_b[8 * t + 2 * place][8 * step + group];
                right_a[t] = {{split(x[0]), split(x[WIDTH + PAD])}};
                multiply_low(part_a, ds[t], right_a[t]);
                if (OF_QUERIES) continue;
                right_b[t] = {{split(y[0]), split(y[WIDTH + PAD])}};
                multiply_low(part_b, p[t], right_b[t]);
            }
#pragma unroll
            for (unsigned t = 0; t < BLOCKS; t++) {
                multiply_high(part_a, ds[t], right_a[t]);
                if (!OF_QUERIES) multiply_high(part_b, p[t], right_b[t]);
            }
#pragma unroll
            for (unsigned i = 0; i < 4; i++) {
                sums_a[step][i] += part_a.at[i];
                if (!OF_QUERIES) sums_b[OF_QUERIES ? 0 : step][i] += part_b.at[i];
            }
        }
    }
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = first + group + 8 * (i >> 1);
        if (row >= mine.end) continue;
        size_t start = (size_t)row * out_stride + left;
#pragma unroll
        for (unsigned step = 0; step < STEPS; step++) {
            unsigned column = 8 * step + 2 * place + (i & 1);
            if (column >= width) continue;
            first_out[start + column] = OF_QUERIES ? sums_a[step][i] * of.scale : sums_a[step][i];   // q has the scale already
            if (!OF_QUERIES) second_out[start + column] = sums_b[OF_QUERIES ? 0 : step][i];
        }
    }
}

#define KERNELS(WIDTH, THREADS)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128) attention_forward_##WIDTH(                                                       \
        float *context, float *logsum, const float *q, const float *k, const float *v, const float *bias, Mask mask,                   \
        Packing of_queries, Packing of_keys, unsigned queries, unsigned keys, unsigned heads, unsigned head_width, unsigned q_stride,  \
        unsigned kv_stride, float scale) {                                                                                             \
        forward<WIDTH>(context, logsum, q, k, v, bias, mask, of_queries, of_keys,                                                      \
                       {queries, keys, heads, head_width, q_stride, kv_stride, scale});                                                \
    }                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_queries_##WIDTH(                                          \
        float *grad_q, const float *q, const float *k, const float *v, const float *bias, const float *logsum, const float *delta,     \
        const float *grad, Mask mask, Packing of_queries, Packing of_keys, unsigned queries, unsigned keys, unsigned heads,            \
        unsigned head_width, unsigned q_stride, unsigned kv_stride, unsigned gq_stride, float scale) {                                 \
        backward<WIDTH, true>(grad_q, nullptr, {q, k, v, bias, logsum, delta, grad}, mask, of_queries, of_keys,                        \
                              {queries, keys, heads, head_width, q_stride, kv_stride, scale}, gq_stride);                              \
    }                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_backward_keys_##WIDTH(                                             \
        float *grad_k, float *grad_v, const float *q, const float *k, const float *v, const float *bias, const float *logsum,          \
        const float *delta, const float *grad, Mask mask, Packing of_queries, Packing of_keys, unsigned queries, unsigned keys,        \
        unsigned heads, unsigned head_width, unsigned q_stride, unsigned kv_stride, unsigned gkv_stride, float scale) {                \
        backward<WIDTH, false>(grad_k, grad_v, {q, k, v, bias, logsum, delta, grad}, mask, of_queries, of_keys,                        \
                               {queries, keys, heads, head_width, q_stride, kv_stride, scale}, gkv_stride);                            \
    }

KERNELS(16, 128)
KERNELS(32, 128)
KERNELS(64, 128)
KERNELS(128, 64)
