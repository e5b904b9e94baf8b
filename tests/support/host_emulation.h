// CUDA as far as the kernels use it, on one thread of a CPU: a block's threads are coroutines that run
// until they meet a barrier or exchange values. Shared memory is poisoned before each block.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <ucontext.h>
#include <vector>

#define HOST_EMULATION 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __restrict__

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { unsigned int x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index { unsigned x, y, z; };

namespace emulation {
constexpr std::size_t STACK = 256 * 1024;
inline Index thread, block, block_size, grid_size;
inline std::vector<ucontext_t> threads;
inline std::vector<char> stacks;
inline std::vector<bool> finished;
inline ucontext_t scheduler;
inline std::vector<std::uint64_t> slots;
struct Barrier { int waiting = 0, votes = 0, result = 0; long generation = 0; };
inline Barrier of_block;
inline std::vector<Barrier> of_warp;
alignas(16) inline unsigned char shared[256 * 1024];
inline int alive;

inline void yield() { swapcontext(&threads[thread.x], &scheduler); }
inline int meet(Barrier& barrier, int members, int vote) {
    long mine = barrier.generation;
    barrier.votes += vote;
    if (++barrier.waiting == members) {
        barrier.result = barrier.votes == members;
        barrier.waiting = barrier.votes = 0;
        barrier.generation++;
    } else
        while (barrier.generation == mine) yield();
    return barrier.result;
}
inline void meet_warp() {
    int warp = thread.x / 32, members = block_size.x - 32 * warp;
    meet(of_warp[warp], members < 32 ? members : 32, 0);
}
template <typename Body>
void run_block(Body body) {
    int count = block_size.x;
    threads.resize(count), stacks.resize(count * STACK), slots.resize(count);
    finished.assign(count, false), of_warp.assign((count + 31) / 32, {}), of_block = {};
    float poison = std::numeric_limits<float>::quiet_NaN();
    for (std::size_t i = 0; i < sizeof(shared); i += 4) std::memcpy(shared + i, &poison, 4);
    static Body* running;
    running = &body;
    for (int i = 0; i < count; i++) {
        getcontext(&threads[i]);
        threads[i].uc_stack.ss_sp = stacks.data() + i * STACK;
        threads[i].uc_stack.ss_size = STACK;
        threads[i].uc_link = &scheduler;
        makecontext(&threads[i], (void (*)())(+[] { (*running)(); finished[thread.x] = true; }), 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (int i = 0; i < count; i++)
            if (!finished[i]) {
                left = true;
                thread = {(unsigned)i, 0, 0};
                swapcontext(&scheduler, &threads[i]);
            }
    }
}
template <typename Body>
void run_grid(int blocks, int size, Body body) {
    block_size = {(unsigned)size, 1, 1}, grid_size = {(unsigned)blocks, 1, 1};
    for (int i = 0; i < blocks; i++) {
        block = {(unsigned)i, 0, 0};
        run_block(body);
    }
}
}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::block_size
#define gridDim emulation::grid_size
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulation::shared)

static inline void __syncthreads() { emulation::meet(emulation::of_block, blockDim.x, 0); }
static inline int __syncthreads_and(int vote) {
    return emulation::meet(emulation::of_block, blockDim.x, vote != 0);
}
static inline float __shfl_xor_sync(unsigned, float value, int mask) {
    std::memcpy(&emulation::slots[threadIdx.x], &value, sizeof value);
    emulation::meet_warp();
    float taken;
    std::memcpy(&taken, &emulation::slots[threadIdx.x ^ mask], sizeof taken);
    emulation::meet_warp();
    return taken;
}
static inline float __shfl_sync(unsigned, float value, int lane, int width) {
    std::memcpy(&emulation::slots[threadIdx.x], &value, sizeof value);
    emulation::meet_warp();
    float taken;
    std::memcpy(&taken, &emulation::slots[threadIdx.x / width * width + lane], sizeof taken);
    emulation::meet_warp();
    return taken;
}
static inline void __syncwarp() { emulation::meet_warp(); }
template <typename T>
static inline void copy_sixteen_bytes(T* to, const T* from) { std::memcpy(to, from, 16); }
static inline void wait_for_copies() {}
template <typename T>
static inline T read_fresh(const T* from) { return *from; }
template <typename T>
T __ldg(const T* from) { return *from; }
static inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
static inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
static inline float exp2_fast(float x) { return std::exp2(x); }
static inline float log2_fast(float x) { return std::log2(x); }
static inline float reciprocal_fast(float x) { return 1.f / x; }
static inline float widen_bfloat16(unsigned short x) { return __uint_as_float((unsigned)x << 16); }
static inline float widen_float16(unsigned short x) { _Float16 h; std::memcpy(&h, &x, 2); return (float)h; }
#if ELEMENT == 1
static inline float widen(unsigned short x) { return widen_bfloat16(x); }
static inline unsigned narrow_one(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return std::isnan(x) ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}
static inline unsigned narrow_two(float low, float high) { return narrow_one(low) | narrow_one(high) << 16; }
#elif ELEMENT == 2
static inline float widen(unsigned short x) { return widen_float16(x); }
static inline unsigned narrow_one(float x) {
    _Float16 h = (_Float16)x;
    unsigned short bits;
    std::memcpy(&bits, &h, 2);
    return bits;
}
static inline unsigned narrow_two(float low, float high) { return narrow_one(low) | narrow_one(high) << 16; }
#endif
