// The losses: softmax cross-entropy, and binary cross-entropy of sigmoids.
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | cross_entropy | losses[row] = ln sum exp(logits) - logit of the label; grad (or null) = (softmax - onehot) * share | (rows, 1, 1), 256 |
// | binary_cross_entropy | losses[row] = sum of max(x, 0) - x * y + ln(1 + exp(-|x|)); grad (or null) = (sigmoid - y) * share | (rows, 1, 1), 256 |
// | mean_loss | loss[0] = share * sum of losses | (1, 1, 1), 256 |
//
// `share` is 1 / (rows of the whole batch), with binary_cross_entropy 1 / (rows of the whole batch * classes). Labels are the caller's
// to check.

#define WARPS (256 / WARP)

// The sum, or the largest, of what the 256 threads have, the same in every thread. A kernel calls each of the two once: nothing
// waits here for those who still read what an earlier call has shared.
template <bool LARGEST> __device__ __forceinline__ float over_block(float x) {
    __shared__ float shared[WARPS];
    x = LARGEST ? warp_max(x) : warp_sum(x);
    if (threadIdx.x % WARP == 0) shared[threadIdx.x / WARP] = x;
    __syncthreads();
    x = shared[0];
    for (unsigned warp = 1; warp < WARPS; warp++) x = LARGEST ? fmaxf(x, shared[warp]) : x + shared[warp];
    return x;
}

extern "C" __global__ void __launch_bounds__(256)
cross_entropy(float *losses, float *grad, const float *logits, const unsigned *labels, unsigned rows, unsigned classes, float share) {
    unsigned row = blockIdx.x;
    if (row >= rows) return;
    const float *x = logits + (size_t)row * classes;
    float most = -INFINITY, total = 0.0f;
    for (unsigned c = threadIdx.x; c < classes; c += 256) most = fmaxf(most, x[c]);
    most = over_block<true>(most);
    for (unsigned c = threadIdx.x; c < classes; c += 256) total += expf(x[c] - most);
    total = over_block<false>(total);
    unsigned label = labels[row];
    if (threadIdx.x == 0) losses[row] = logf(total) - (x[label] - most);
    if (!grad) return;
    for (unsigned c = threadIdx.x; c < classes; c += 256)
        grad[(size_t)row * classes + c] = (expf(x[c] - most) / total - (c == label ? 1.0f : 0.0f)) * share;
}

extern "C" __global__ void __launch_bounds__(256)
binary_cross_entropy(float *losses, float *grad, const float *logits, const float *targets, unsigned rows, unsigned classes, float share) {
    unsigned row = blockIdx.x;
    if (row >= rows) return;
    size_t first = (size_t)row * classes;
    float total = 0.0f;
    for (unsigned c = threadIdx.x; c < classes; c += 256) {
        float x = logits[first + c], y = targets[first + c];
        // The exponent is not positive, so that no logit overflows. fmaxf drops a NaN; the other terms keep it.
        float e = expf(-fabsf(x));
        total += fmaxf(x, 0.0f) - x * y + log1pf(e);
        if (grad) grad[first + c] = ((x < 0.0f ? e : 1.0f) / (1.0f + e) - y) * share;
    }
    total = over_block<false>(total);
    if (threadIdx.x == 0) losses[row] = total;
}

extern "C" __global__ void __launch_bounds__(256) mean_loss(float *loss, const float *losses, unsigned rows, float share) {
    float sum = 0.0f;
    for (unsigned row = threadIdx.x; row < rows; row += 256) sum += losses[row];
    sum = over_block<false>(sum);
    if (threadIdx.x == 0) loss[0] = sum * share;
}
