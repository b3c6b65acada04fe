// Dropout alone.
//
// | kernel | result | geometry |
// | --- | --- | --- |
// | dropout | y[i] = x[i] * factor(mask, i); y may be x | FLAT(n) |

extern "C" __global__ void __launch_bounds__(256) dropout(float *y, const float *x, Mask mask, unsigned n) {
    each_value(n, [=](size_t i) { return x[i] * factor(mask, (unsigned)i); }, [=](size_t i, float kept) { y[i] = kept; });
}
