// What a chunk of the sequence hands on to the next, computed for all chunks at once, and the sum of
// these over the chunks. With GRADIENT 0: the state at the end of the chunk had it begun with zero,
// from u and B, walked from the end of the chunk. With GRADIENT 1: the gradient of the state before
// the chunk had none come from behind it, from the gradient of y and C, walked from the start.
// A walk stops when everything further on has decayed below 2^-30.
//
// Shapes: u (u, or the gradient of y), delta [G, clips, length, channels]; B (B, or C)
// [G, clips, length, STATES]; A [G, channels, STATES]; bias [G, channels];
// carry [G, clips, chunks, channels, PADDED]; times [G, clips, chunks, channels].

#define THREADS (CHANNELS * LANES)
#define OWN ((STATES + LANES - 1) / LANES)
#define PADDED ((STATES + 3) / 4 * 4)
#define FOURS (STEPS * CHANNELS / THREADS / 4)
#define STATE_FOURS ((STATES + 3) / 4)
#define STATE_LOADS ((STEPS * STATE_FOURS + THREADS - 1) / THREADS)
#define NEGLIGIBLE -30.f

static_assert(STEPS % (4 * LANES) == 0, "each thread brings whole fours of a tile");
static_assert(OWN * LANES <= PADDED, "the states of all lanes fit into a row");

extern "C" __global__ void __launch_bounds__(THREADS) scan_carry(Arguments p) {
    __shared__ __align__(16) float2 inputs[STEPS][CHANNELS];
    __shared__ __align__(16) float shared_B[STEPS][PADDED];

    int tiles = (p.channels + CHANNELS - 1) / CHANNELS;
    Place place = place_of_block(blockIdx.x, tiles, p.chunks, p.clips);
    int group = p.first_group + place.group;
    bool reversed = (p.reversed_groups >> group) & 1;
    int first_step = place.chunk * p.chunk_steps;
    int last_step = min(first_step + p.chunk_steps, p.length);
    int steps = last_step - first_step;

    int part = threadIdx.x % LANES, column = threadIdx.x / LANES;
    int channel = place.tile * CHANNELS + column;
    bool exists = channel < p.channels;
    float rate[OWN], carry[OWN], slowest = exists ? -1e30f : -1.f, time_passed = 0.f;
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        int s = part * OWN + n;
        bool real = exists && s < STATES;
        rate[n] = real ? LOG2_E * p.A[((long long)group * p.channels + channel) * STATES + s] : 0.f;
        if (real) slowest = fmaxf(slowest, rate[n]);
        carry[n] = 0.f;
    }

    int four_column = threadIdx.x % (CHANNELS / 4), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + 4 * four_column;
    int count = p.channels - four_channel;
    float own_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        own_bias[i] = p.bias != nullptr && i < count
            ? p.bias[(long long)group * p.channels + four_channel + i]
            : 0.f;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + four_channel;
    const element* delta = p.delta + group * p.delta_group + place.clip * p.delta_clip + four_channel;
    const element* B = p.B + group * p.B_group + place.clip * p.B_clip;

    Four raw_u[FOURS], raw_delta[FOURS], raw_states[STATE_LOADS];
    auto position = [&](int walked) {
        int step = GRADIENT ? first_step + walked : last_step - 1 - walked;
        return (long long)(reversed ? p.length - 1 - step : step);
    };
    auto fetch = [&](int walked) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = walked + four_row + f * (4 * THREADS / CHANNELS);
            raw_u[f] = read_four(u + position(row) * p.u_row, row < steps ? count : 0);
            raw_delta[f] = read_four(delta + position(row) * p.delta_row, row < steps ? count : 0);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            int row = walked + load / STATE_FOURS, s = 4 * (load % STATE_FOURS);
            bool inside = load < STEPS * STATE_FOURS && row < steps;
            raw_states[f] = read_four(B + position(row) * p.B_row + s, inside ? STATES - s : 0);
        }
    };
    auto store = [&](int walked) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * (4 * THREADS / CHANNELS);
            float pairs[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i], value = take(raw_u[f], i);
                float time = p.softplus ? softplus_fast(biased) : biased;
                if (walked + row >= steps) time = 0.f;
                pairs[2 * i] = time, pairs[2 * i + 1] = GRADIENT ? value : time * value;
            }
            write_floats<8>(&inputs[row][4 * four_column].x, pairs);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            if (load < STEPS * STATE_FOURS)
                write_taken(shared_B[load / STATE_FOURS] + 4 * (load % STATE_FOURS), raw_states[f]);
        }
    };

    fetch(0);
    for (int walked = 0; walked < steps; walked += STEPS) {
        store(walked);
        __syncthreads();
        if (walked + STEPS < steps) fetch(walked + STEPS);
#pragma unroll 8
        for (int row = 0; row < STEPS; row++) {
            float2 input = inputs[row][column];
            float b[OWN];
            read_floats<OWN>(b, &shared_B[row][part * OWN]);
            if (GRADIENT) time_passed += input.x;
#pragma unroll
            for (int n = 0; n < OWN; n++) {
                float power = rate[n] * time_passed;
                float decay = n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
                carry[n] += decay * (input.y * b[n]);
            }
            if (!GRADIENT) time_passed += input.x;
        }
        bool decayed = p.softplus && slowest < 0.f && slowest * time_passed < NEGLIGIBLE;
        if (__syncthreads_and(decayed || !exists)) break;
    }
    if (!exists) return;
    long long at = (((long long)group * p.clips + place.clip) * p.chunks + place.chunk) * p.channels + channel;
    write_floats<OWN>(p.carry + at * PADDED + part * OWN, carry);
    if (part == 0) p.times[at] = time_passed;
}

// Runs over the chunks in the order in which they hand on: carry becomes what enters each of them.
// One thread a state. `initial` and `final` are [G, clips, channels, STATES].
extern "C" __global__ void combine_carries(Arguments p) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int s = thread % PADDED;
    long long channel_of_clip = thread / PADDED;
    int channel = channel_of_clip % p.channels;
    long long sequence = channel_of_clip / p.channels;
    if (sequence >= (long long)p.groups * p.clips) return;
    int group = sequence / p.clips;
    bool real = s < STATES;
    float rate = real ? LOG2_E * p.A[((long long)group * p.channels + channel) * STATES + s] : 0.f;
    long long end = channel_of_clip * STATES + s;
    float entering = p.initial != nullptr && real ? p.initial[end] : 0.f;
    for (int i = 0; i < p.chunks; i++) {
        int chunk = GRADIENT ? p.chunks - 1 - i : i;
        long long at = (sequence * p.chunks + chunk) * p.channels + channel;
        float own = p.carry[at * PADDED + s];
        p.carry[at * PADDED + s] = entering;
        entering = entering * exp2_fast(rate * p.times[at]) + own;
    }
}
