// What a .cu file finds when a C++ compiler compiles it: the words of CUDA that the kernels use, for one thread of the host.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define GPU_ON_CPU
#ifndef __CUDA_ARCH__
#define __CUDA_ARCH__ 900
#endif
#define __global__ static
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __shared__ static __thread

struct Dim3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
// Of the CUDA thread that runs.
extern __thread Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gpu_on_cpu {
// What a lane shows to its warp.
struct Shown {
    uint32_t words[8];
};
// What the lanes of a warp meet for. Lanes that meet for different things are an error.
enum class Meeting { SYNC, SHUFFLE, BALLOT, MMA };
// Waits until all lanes of the warp have shown what they have. The last one to come runs `all` on it, if it is not null.
const Shown *meet(Meeting meeting, const Shown &mine, void (*all)(const Shown *shown) = nullptr);
// Waits until all threads of the block have come; whether one of them says true.
bool wait_for_block(bool mine);
// The barrier of this number in its file, unless the kernel that runs leaves it out.
constexpr unsigned NO_BARRIER = ~0u;
extern __thread unsigned left_out;
inline void wait_at_barrier(unsigned number) {
    if (number != left_out) wait_for_block(false);
}

template <typename T> T shuffle(T mine, unsigned from) {
    static_assert(sizeof(T) <= sizeof(Shown));
    Shown shown = {};
    std::memcpy(&shown, &mine, sizeof mine);
    const Shown *all = meet(Meeting::SHUFFLE, shown);
    std::memcpy(&mine, &all[from % 32], sizeof mine);
    return mine;
}

// The tensor core's product of a warp, c += a b; which lane holds which element is as in the PTX manual. Factors lose what a
// TF32 number does not have. The sum of a step is rounded once: hardware truncates it more often.
void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// A kernel as the launcher sees it.
struct Kernel {
    const char *name;
    void (*run)(void *const *arguments);
    const size_t *sizes;     // of its parameters, in bytes
    size_t parameters;
    unsigned bound;          // the most threads of a block
    unsigned left_out;       // the barrier that it leaves out
};

// Unpacks arguments by a kernel's own signature.
template <auto KERNEL> struct Signature;
template <typename... A, void (*KERNEL)(A...)> struct Signature<KERNEL> {
    static constexpr size_t sizes[] = {sizeof(A)...};
    template <typename T> static T read(const void *from) {
        T value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
    template <size_t... I> static void unpack(void *const *arguments, std::index_sequence<I...>) {
        KERNEL(read<A>(arguments[I])...);
    }
    static void run(void *const *arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
    static constexpr Kernel kernel(const char *name, unsigned bound, unsigned left_out) {
        return {name, run, sizes, sizeof...(A), bound, left_out};
    }
};
}

inline int __syncthreads_or(int mine) { return gpu_on_cpu::wait_for_block(mine); }
inline void __syncwarp(unsigned = ~0u) { gpu_on_cpu::meet(gpu_on_cpu::Meeting::SYNC, {}); }
template <typename T> T __shfl_sync(unsigned, T x, unsigned from) { return gpu_on_cpu::shuffle(x, from); }
template <typename T> T __shfl_xor_sync(unsigned, T x, unsigned step) {
    return gpu_on_cpu::shuffle(x, threadIdx.x % 32 ^ step);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
    gpu_on_cpu::Shown shown = {{mine}};
    const gpu_on_cpu::Shown *all = gpu_on_cpu::meet(gpu_on_cpu::Meeting::BALLOT, shown);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++) bits |= all[lane].words[0] << lane;
    return bits;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
