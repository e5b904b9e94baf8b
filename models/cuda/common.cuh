// What the kernels share: the element type, loads and stores of four elements, exponentials, sums
// over lanes. ELEMENT is 0 for float32, 1 for bfloat16, 2 for float16.

#if ELEMENT == 0
typedef float element;
struct alignas(16) Four {
    float value[4];
};
#else
typedef unsigned short element;
struct alignas(8) Four {
    unsigned int word[2];
};
#endif

#ifndef HOST_EMULATION
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) unsigned char shared_bytes[]; \
    type* name = reinterpret_cast<type*>(shared_bytes)
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float log2_fast(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float widen_bfloat16(unsigned short x) {
    return __uint_as_float((unsigned)x << 16);
}
__device__ __forceinline__ float widen_float16(unsigned short x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
// Sixteen bytes to shared memory, past the first-level cache, while the thread goes on.
__device__ __forceinline__ void copy_sixteen_bytes(element* to, const element* from) {
    unsigned int address = __cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
// What other blocks may have written since the kernel began.
__device__ __forceinline__ element read_fresh(const element* from) {
    return *reinterpret_cast<const volatile element*>(from);
}
#if ELEMENT == 1
__device__ __forceinline__ float widen(element x) { return widen_bfloat16(x); }
__device__ __forceinline__ unsigned int narrow_two(float low, float high) {
    unsigned int two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}
#elif ELEMENT == 2
__device__ __forceinline__ float widen(element x) { return widen_float16(x); }
__device__ __forceinline__ unsigned int narrow_two(float low, float high) {
    unsigned int two;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}
#endif
#endif

#define LOG2_E 1.44269504088896340736f
#define LN_2 0.69314718055994530942f

#if ELEMENT == 0
__device__ __forceinline__ float widen(element x) { return x; }
__device__ __forceinline__ element narrow(float x) { return x; }
__device__ __forceinline__ float take(const Four& four, int i) { return four.value[i]; }
__device__ __forceinline__ Four pack(const float* x) { return {{x[0], x[1], x[2], x[3]}}; }
__device__ __forceinline__ Four no_elements() { return {{0.f, 0.f, 0.f, 0.f}}; }
__device__ __forceinline__ Four read_vector(const element* from) {
    float4 v = __ldg(reinterpret_cast<const float4*>(from));
    return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void set(Four& four, int i, element x) { four.value[i] = x; }
#else
__device__ __forceinline__ element narrow(float x) { return (element)narrow_two(x, 0.f); }
__device__ __forceinline__ float take(const Four& four, int i) {
    return widen((element)(four.word[i >> 1] >> (16 * (i & 1))));
}
__device__ __forceinline__ Four pack(const float* x) {
    return {{narrow_two(x[0], x[1]), narrow_two(x[2], x[3])}};
}
__device__ __forceinline__ Four no_elements() { return {{0u, 0u}}; }
__device__ __forceinline__ Four read_vector(const element* from) {
    uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
    return {{v.x, v.y}};
}
__device__ __forceinline__ void set(Four& four, int i, element x) {
    unsigned int shift = 16 * (i & 1);
    four.word[i >> 1] = (four.word[i >> 1] & ~(0xffffu << shift)) | ((unsigned)x << shift);
}
#endif

// Four neighbours. With VECTOR all of them exist and lie on a boundary, else `count` of them exist.
__device__ __forceinline__ Four read_four(const element* from, int count) {
#if VECTOR
    return read_vector(from);
#else
    Four four = no_elements();
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) set(four, i, from[i]);
    return four;
#endif
}

// Where a thread whose channels may lie past the end reads from: with VECTOR from real channels.
__device__ __forceinline__ int readable_four(int channel, int channels) {
#if VECTOR
    return min(channel, channels - 4);
#else
    return channel;
#endif
}

__device__ __forceinline__ void write_four(element* to, const float* x, int count) {
#if VECTOR
    if (count > 0) *reinterpret_cast<Four*>(to) = pack(x);
#else
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) to[i] = narrow(x[i]);
#endif
}

__device__ __forceinline__ float sigmoid_fast(float x) {
    return reciprocal_fast(1.f + exp2_fast(-LOG2_E * x));
}

__device__ __forceinline__ float silu_fast(float x) { return x * sigmoid_fast(x); }

// log(1 + e) for 0 <= e <= 1 as e times a polynomial: no branch, no loss for small e, and as exact as
// the elements are (relative errors 1e-06 and 2e-07).
__device__ __forceinline__ float log1p_fast(float e) {
#if ELEMENT != 0
    constexpr float c[] = {0.999998748f, -0.499869645f, 0.331094474f, -0.235038579f, 0.149223819f, -0.0664017498f, 0.0141410073f};
#else
    constexpr float c[] = {1.f, -0.499999017f, 0.333299637f, -0.249541342f, 0.196759388f, -0.153055906f, 0.106036514f, -0.0569594987f, 0.0198514443f, -0.00324402121f};
#endif
    constexpr int degree = sizeof(c) / sizeof(float) - 1;
    float sum = c[degree];
#pragma unroll
    for (int i = degree - 1; i >= 0; i--) sum = sum * e + c[i];
    return e * sum;
}

__device__ __forceinline__ float softplus_fast(float x) {
    return fmaxf(x, 0.f) + log1p_fast(exp2_fast(-LOG2_E * fabsf(x)));
}

// 2^x on the multiply-add pipes, to relieve the few units that compute exponentials.
__device__ __forceinline__ float exp2_multiply_add(float x) {
    x = fmaxf(x, -126.f);
    float shifted = x + 12582912.f;
    float f = x - (shifted - 12582912.f);
    float p = 1.3333558e-3f;
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.f;
    return __int_as_float(__float_as_int(p) + (__float_as_int(shifted) << 23));
}

// Without a branch, which would part the warp.
__device__ __forceinline__ void write_where(bool wanted, element* to, float x) {
#ifdef HOST_EMULATION
    if (wanted) *to = narrow(x);
#elif ELEMENT == 0
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.f32 [%1], %2; }" ::"r"((int)wanted), "l"(to), "f"(x) : "memory");
#else
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %0, 0; @p st.global.b16 [%1], %2; }" ::"r"((int)wanted), "l"(to), "h"(narrow(x)) : "memory");
#endif
}

// COUNT neighbours from shared memory, in the widest loads that fit.
template <int COUNT>
__device__ __forceinline__ void read_floats(float* to, const float* from) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            float4 v = *reinterpret_cast<const float4*>(from + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else if constexpr (COUNT % 2 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 2) {
            float2 v = *reinterpret_cast<const float2*>(from + i);
            to[i] = v.x, to[i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) to[i] = from[i];
    }
}

template <int COUNT>
__device__ __forceinline__ void write_floats(float* to, const float* from) {
    if constexpr (COUNT % 4 == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i += 4)
            *reinterpret_cast<float4*>(to + i) =
                make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) to[i] = from[i];
    }
}

// Sums each of COUNT values over the COUNT lanes that differ in the bits of (COUNT - 1) * STRIDE of
// their number; lane i of them keeps sum i in x[0]. COUNT - 1 exchanges instead of COUNT log COUNT.
template <int COUNT, int STRIDE>
__device__ __forceinline__ void sum_to_lanes(float* x, int lane) {
#pragma unroll
    for (int half = COUNT / 2; half >= 1; half /= 2) {
        bool upper = (lane / STRIDE) & half;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float kept = upper ? x[i + half] : x[i];
            float given = upper ? x[i] : x[i + half];
            x[i] = kept + __shfl_xor_sync(0xffffffffu, given, half * STRIDE);
        }
    }
}

// The value of lane j of each COUNT neighbours.
template <int COUNT>
__device__ __forceinline__ float from_lane(float x, int j) {
    return COUNT == 1 ? x : __shfl_sync(0xffffffffu, x, j, COUNT);
}

__device__ __forceinline__ void write_taken(float* to, const Four& four) {
    float x[4] = {take(four, 0), take(four, 1), take(four, 2), take(four, 3)};
    write_floats<4>(to, x);
}

// Blocks are numbered by group, clip, chunk of the sequence and tile of channels, the last fastest.
struct Place {
    int tile, chunk, clip, group;
};

__device__ __forceinline__ Place place_of_block(int block, int tiles, int chunks, int clips) {
    Place place;
    place.tile = block % tiles, block /= tiles;
    place.chunk = block % chunks, block /= chunks;
    place.clip = block % clips;
    place.group = block / clips;
    return place;
}
