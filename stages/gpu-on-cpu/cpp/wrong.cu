// Kernels that wait for what never comes, for the test that this is an error.

extern "C" __global__ void __launch_bounds__(64) some_end_before_a_barrier(float *) {
    if (threadIdx.x == 5) return;
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(64) half_a_warp_exchanges(float *) {
    if (threadIdx.x < 16) warp_sum(1.0f);
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(64) lanes_meet_for_different_things(float *) {
    if (threadIdx.x < 16) warp_sum(1.0f);
    else __syncwarp();
}
