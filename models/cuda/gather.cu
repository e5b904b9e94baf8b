// The parameters of all directions gathered and brought to the types that the kernels want, in one
// launch: each direction's tensors, of whatever type, become two blocks of memory.
//
// wide, float32, one after the other: convolution [G, D, TAPS], its bias [G, D], the bias of the time
// steps [G, D], A = -exp(A_log) [G, D, STATES], D [G, D]. narrow, elements: the projection to time
// steps, B and C [G, PADDED_RANK + 2 STATES, D], and that of time steps [G, D, PADDED_RANK], where
// what pads the rank is zero. A type is 0 for float32, 1 for bfloat16, 2 for float16.

#define PROJECTED (RANK + 2 * STATES)
#define PADDED_PROJECTED (PADDED_RANK + 2 * STATES)

__device__ __forceinline__ float read_any(const void* from, int type, long long at) {
    if (type == 0) return static_cast<const float*>(from)[at];
    unsigned short bits = static_cast<const unsigned short*>(from)[at];
    return type == 1 ? widen_bfloat16(bits) : widen_float16(bits);
}

extern "C" __global__ void __launch_bounds__(256) gather(Arguments p) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long D = p.channels, sizes[] = {D * TAPS, D, D, D * STATES, D, PADDED_PROJECTED * D, D * PADDED_RANK};
    const void* from[][2] = {{p.conv_weight_0, p.conv_weight_1}, {p.conv_bias_0, p.conv_bias_1},
                             {p.dt_bias_0, p.dt_bias_1},         {p.A_log_0, p.A_log_1},
                             {p.D_0, p.D_1},                     {p.x_proj_0, p.x_proj_1},
                             {p.dt_weight_0, p.dt_weight_1}};
    int types[] = {p.conv_weight_type, p.conv_bias_type, p.dt_bias_type, p.A_log_type,
                   p.D_type,           p.x_proj_type,    p.dt_weight_type};
    long long start = 0;
#pragma unroll
    for (int kind = 0; kind < 7; kind++) {
        if (kind == 5) start = 0;
        long long total = sizes[kind] * DIRECTIONS;
        if (i < total) {
            int direction = i >= sizes[kind];
            long long at = i - direction * sizes[kind];
            bool exists = true;
            if (kind == 5) {
                long long row = at / D, column = at % D;
                exists = row < RANK || row >= PADDED_RANK;
                at = (row < RANK ? row : row - PADDED_RANK + RANK) * D + column;
            } else if (kind == 6) {
                long long row = at / PADDED_RANK, column = at % PADDED_RANK;
                exists = column < RANK;
                at = row * RANK + column;
            }
            float value = exists ? read_any(direction ? from[kind][1] : from[kind][0], types[kind], at) : 0.f;
            if (kind == 3) value = -expf(value);
            if (kind < 5)
                p.wide[start + i] = value;
            else
                p.narrow[start + i] = narrow(value);
        }
        start += total;
    }
}
