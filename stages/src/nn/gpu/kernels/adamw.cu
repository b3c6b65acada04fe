// AdamW, all parameters in one launch.
//
// | kernel | result | grid, block |
// | --- | --- | --- |
// | adamw | p, m, v of every slot after one update; see `nn/adamw.rs` | (sum over the slots of ceil(n / 1024), 1, 1), 256 |
//
// first_block[s] is the first block of slot s: the sum of ceil(n / 1024) over the slots before it. No slot is empty.
// rest1 = 1 - beta1 and rest2 = 1 - beta2; step = learning rate * sqrt(1 - beta2^t) / (1 - beta1^t); shrink = learning rate * decay.

struct Slot {
    float *p, *m, *v;
    const float *g;
    unsigned n;
    float step, shrink;
};

extern "C" __global__ void __launch_bounds__(256)
adamw(const Slot *slots, const unsigned *first_block, unsigned slots_count, float beta1, float rest1, float beta2, float rest2, float eps) {
    unsigned number = slot_of_block(first_block, slots_count);
    Slot slot = slots[number];
    unsigned begin = (blockIdx.x - first_block[number]) * 256 * AT_ONCE + threadIdx.x;
    float p[AT_ONCE], m[AT_ONCE], v[AT_ONCE], g[AT_ONCE];
#pragma unroll
    for (unsigned k = 0; k < AT_ONCE; k++) {
        unsigned i = begin + k * 256;
        if (i < slot.n) p[k] = slot.p[i], m[k] = slot.m[i], v[k] = slot.v[i], g[k] = slot.g[i];
    }
#pragma unroll
    for (unsigned k = 0; k < AT_ONCE; k++) {
        unsigned i = begin + k * 256;
        if (i >= slot.n) continue;
        m[k] = beta1 * m[k] + rest1 * g[k];
        v[k] = beta2 * v[k] + rest2 * g[k] * g[k];
        p[k] -= slot.step * (m[k] / (sqrtf(v[k]) + eps));
        p[k] -= slot.shrink * p[k];
        slot.p[i] = p[k], slot.m[i] = m[k], slot.v[i] = v[k];
    }
}
