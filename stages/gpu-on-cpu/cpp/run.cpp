// Runs kernels: the blocks of a grid one after the other, the threads of a block as fibers.
//
// A thread runs until it waits for others (a barrier, a warp exchange) or ends; then one that is ready runs. Which one is drawn
// by the seed: so a barrier that is missing shows. A thread that never waits needs no stack of its own: the next one begins
// where it ended. All state belongs to one thread of the host, so several may launch kernels at once.
#include "cuda_on_cpu.h"
#include "switch.h"
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

__thread Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gpu_on_cpu {
__thread unsigned left_out = NO_BARRIER;

// All kernels there are, from the generated table.
extern const Kernel *const kernels[];
extern const size_t kernels_count;

namespace {
constexpr unsigned WARP = 32;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t STACK = 512 << 10;          // its variables are further apart
#else
constexpr size_t STACK = 64 << 10;
#endif

// A stack on which threads run, one after the other.
struct Worker {
    std::unique_ptr<char[]> stack{new char[STACK]};
    Context context;
};

struct Warp {
    unsigned lanes, met;
    Meeting meeting;
    Shown shown[2][WARP];                    // by turns: one is read while the other is written
};

struct Thread {
    Worker *worker;                          // null before it has begun
    unsigned meetings;
};

struct Machine {
    std::vector<std::unique_ptr<Worker>> workers;
    std::vector<Worker *> idle;
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<unsigned> ready;             // the last one runs next
    std::vector<unsigned> warp_order;
    unsigned current, ended, at_barrier;
    bool some, some_before;                  // of __syncthreads_or
    uint64_t random;
    bool shuffled;
    Context host;
    const Kernel *kernel;
    void *const *arguments;
    std::string error;

    unsigned below(unsigned n) {             // xorshift64*
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        return (unsigned)((random * 0x2545f4914f6cdd1dull >> 32) * n >> 32);
    }
    template <typename T> void shuffle(T *values, size_t count) {
        for (size_t i = count; i > 1; i--) std::swap(values[i - 1], values[below((unsigned)i)]);
    }
    // Makes the threads of a warp but one ready.
    void release_warp(unsigned first, unsigned but) {
        size_t begin = ready.size();
        for (unsigned i = std::min(first + WARP, blockDim.x); i-- > first;)
            if (i != but) ready.push_back(i);
        if (shuffled) shuffle(&ready[begin], ready.size() - begin);
    }
    // Makes all threads ready: all mixed, or warp by warp, so that one warp gets far ahead of the others.
    void release_block() {
        std::vector<unsigned> &order = warp_order;
        order.clear();
        for (unsigned first = 0; first < blockDim.x; first += WARP) order.insert(order.begin(), first);
        if (shuffled) shuffle(order.data(), order.size());
        for (unsigned first : order) release_warp(first, blockDim.x);
        if (shuffled && below(2)) shuffle(ready.data(), ready.size());
    }
    Worker *idle_worker();
    void enter(unsigned thread);
    void wait();
    void run_block();
};

Machine &machine() {
    static thread_local Machine machine;
    return machine;
}

void set_index(unsigned thread) { threadIdx = {thread, 0, 0}; }

// Gives the block up and goes back to the host. What runs on the stacks is left as it is.
[[noreturn]] void fail(const std::string &error) {
    Machine &m = machine();
    m.error = error;
    Context abandoned;
    switch_to(abandoned, m.host);
    __builtin_unreachable();
}

// What a worker does for ever: runs threads from their beginning to their end.
void work() {
    for (;;) {
        Machine &m = machine();
        Worker *self = m.threads[m.current].worker;
        set_index(m.current);
        m.kernel->run(m.arguments);
        m.ended++;
        if (!m.ready.empty() && !m.threads[m.ready.back()].worker) {
            m.current = m.ready.back();
            m.ready.pop_back();
            m.threads[m.current].worker = self;
            continue;
        }
        m.idle.push_back(self);
        if (m.ready.empty()) {
            switch_to(self->context, m.host);
        } else {
            m.current = m.ready.back();
            m.ready.pop_back();
            switch_to(self->context, m.threads[m.current].worker->context);
        }
    }
}

Worker *Machine::idle_worker() {
    if (idle.empty()) {
        workers.push_back(std::make_unique<Worker>());
        Worker *made = workers.back().get();
        prepare(made->context, made->stack.get(), STACK, work);
        return made;
    }
    Worker *worker = idle.back();
    idle.pop_back();
    return worker;
}

// The running thread waits; another runs.
void Machine::wait() {
    unsigned self = current;
    if (ready.empty()) fail("threads of a block wait for each other for ever");
    current = ready.back();
    ready.pop_back();
    if (current != self) {
        Thread &next = threads[current];
        if (!next.worker) next.worker = idle_worker();
        switch_to(threads[self].worker->context, next.worker->context);
        set_index(self);
    }
}

void Machine::run_block() {
    unsigned count = blockDim.x;
    threads.assign(count, {nullptr, 0});
    warps.resize((count + WARP - 1) / WARP);
    for (unsigned i = 0; i < warps.size(); i++) {
        warps[i].met = 0;
        warps[i].lanes = std::min(count - i * WARP, WARP);
    }
    ready.clear();
    ended = at_barrier = 0;
    some = false;
    release_block();
    current = ready.back();
    ready.pop_back();
    threads[current].worker = idle_worker();
    switch_to(host, threads[current].worker->context);
    if (error.empty() && ended < count) error = "threads of a block wait for others that have ended";
}
}

const Shown *meet(Meeting meeting, const Shown &mine, void (*all)(const Shown *shown)) {
    Machine &m = machine();
    unsigned self = m.current;
    Warp &warp = m.warps[self / WARP];
    Shown *shown = warp.shown[m.threads[self].meetings++ % 2];
    if (warp.lanes < WARP) fail("an exchange of a warp of less than 32 threads");
    if (warp.met > 0 && warp.meeting != meeting) fail("lanes of a warp wait in different places");
    warp.meeting = meeting;
    shown[self % WARP] = mine;
    if (++warp.met < WARP) {
        m.wait();
    } else {
        warp.met = 0;
        if (all) all(shown);
        m.release_warp(self / WARP * WARP, self);
    }
    return shown;
}

bool wait_for_block(bool mine) {
    Machine &m = machine();
    m.some |= mine;
    if (++m.at_barrier == blockDim.x) {
        m.at_barrier = 0;
        m.some_before = m.some;
        m.some = false;
        m.release_block();
    }
    m.wait();
    return m.some_before;
}

namespace {
struct Tile {
    float *c;
    uint32_t a[4], b[2];
};

float tf32(uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); }

void multiply_warp(const Shown *shown) {
    float a[16][8], b[8][8];
    Tile tiles[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        Tile &tile = tiles[lane];
        std::memcpy(&tile, &shown[lane], sizeof tile);
        unsigned group = lane / 4, place = lane % 4;
        for (unsigned i = 0; i < 4; i++) a[group + 8 * (i % 2)][place + 4 * (i / 2)] = tf32(tile.a[i]);
        for (unsigned i = 0; i < 2; i++) b[place + 4 * i][group] = tf32(tile.b[i]);
    }
    double c[16][8] = {};
    for (unsigned row = 0; row < 16; row++)
        for (unsigned k = 0; k < 8; k++)
            for (unsigned column = 0; column < 8; column++) c[row][column] += (double)a[row][k] * b[k][column];
    for (unsigned lane = 0; lane < WARP; lane++)
        for (unsigned i = 0; i < 4; i++)
            tiles[lane].c[i] = (float)(tiles[lane].c[i] + c[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2]);
}
}

void mma_m16n8k8_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    static_assert(sizeof(Tile) <= sizeof(Shown));
    Tile mine = {c, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    Shown shown = {};
    std::memcpy(&shown, &mine, sizeof mine);
    meet(Meeting::MMA, shown, multiply_warp);
}

namespace {
const Kernel *find(const char *name) {
    for (size_t i = 0; i < kernels_count; i++)
        if (!std::strcmp(kernels[i]->name, name)) return kernels[i];
    return nullptr;
}

void launch(const char *name, Dim3 grid, unsigned block, void *const *arguments, size_t count, uint64_t seed, std::string &error) {
    Machine &m = machine();
    m.kernel = find(name);
    if (!m.kernel) return void(error = "there is no such kernel");
    if (count != m.kernel->parameters)
        return void(error = std::to_string(count) + " arguments for " + std::to_string(m.kernel->parameters) + " parameters");
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return void(error = "a grid that CUDA does not launch");
    if (!block || block > m.kernel->bound)
        return void(error = std::to_string(block) + " threads in a block of at most " + std::to_string(m.kernel->bound));
    gridDim = grid;
    blockDim = {block, 1, 1};
    m.arguments = arguments;
    left_out = m.kernel->left_out;
    m.shuffled = seed != 0;
    m.error.clear();
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
                m.random = (seed + blockIdx.x + 977ull * blockIdx.y + 131071ull * blockIdx.z) * 0x9e3779b97f4a7c15ull | 1;
                m.run_block();
                if (m.error.empty()) continue;
                error = m.error;
                m.idle.clear();
                m.workers.clear();
                return;
            }
}
}
}

// The functions that Rust calls.
extern "C" {
// 0, or 1 and a message in `error`, of at most `length` bytes with a zero at its end.
int gpu_on_cpu_launch(const char *name, const unsigned *grid, unsigned block, void *const *arguments, size_t count, uint64_t seed,
                      char *error, size_t length) {
    std::string found;
    gpu_on_cpu::launch(name, {grid[0], grid[1], grid[2]}, block, arguments, count, seed, found);
    std::snprintf(error, length, "%s", found.c_str());
    return !found.empty();
}
// The kernel's number of parameters, whose sizes `sizes` then points to, or -1.
int gpu_on_cpu_parameters(const char *name, const size_t **sizes) {
    const gpu_on_cpu::Kernel *kernel = gpu_on_cpu::find(name);
    if (!kernel) return -1;
    *sizes = kernel->sizes;
    return (int)kernel->parameters;
}
// The name of kernel `i`, or null.
const char *gpu_on_cpu_name(size_t i) { return i < gpu_on_cpu::kernels_count ? gpu_on_cpu::kernels[i]->name : nullptr; }
}
