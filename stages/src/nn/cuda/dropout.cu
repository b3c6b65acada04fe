// Dropout on a GPU: y = x times the factor of each element, the bits that `Mask::factor` gives on the host.
// `first` is what element 0 is in the whole batch's tensor.
extern "C" __global__ void dropout(float *y, const float *x, unsigned count, unsigned first, unsigned key0,
                                   unsigned key1, unsigned threshold, float scale) {
    unsigned step = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step) {
        unsigned h = (i + first) ^ key0;
        h = (h ^ (h >> 16)) * 0x7feb352du;
        h = (h ^ (h >> 15) ^ key1) * 0x846ca68bu;
        h ^= h >> 16;
        y[i] = x[i] * (h >= threshold ? scale : 0.0f);
    }
}
