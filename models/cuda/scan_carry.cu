// What a chunk of the sequence hands on to the next, computed for all chunks at once, and the sum of
// these over the chunks. With GRADIENT 0: the state at the end of the chunk had it begun with zero,
// from u and B, walked from the end of the chunk. With GRADIENT 1: the gradient of the state before
// the chunk had none come from behind it, from the gradient of y and C, walked from the start.
// A walk stops when everything further on has decayed below 2^-30.
//
// Shapes: u (u, or the gradient of y), delta [G, clips, length, channels]; B (B, or C)
// [G, clips, length, STATES]; A [G, channels, STATES]; bias [G, channels];
// carry [G, clips, chunks, channels, PADDED]; times [G, clips, chunks, channels].

#define STATE_FOURS (PADDED / 4)
#define STATE_LOADS ((STEPS * STATE_FOURS + THREADS - 1) / THREADS)
#define NEGLIGIBLE -30.f
// Of the exponentials of LANES steps, those on the multiply-add pipes, which have less to do here.
#define CARRY_FMA_EXPONENTIALS (PADDED / 5)

struct Tile {
    element u[STEPS][CHANNELS];
    element delta[STEPS][CHANNELS];
};

extern "C" __global__ void __launch_bounds__(THREADS) scan_carry(Arguments p) {
    __shared__ __align__(16) Tile tiles[2];
    __shared__ __align__(16) float states_in[2][STEPS][PADDED];

    int blocks_across = (p.channels + CHANNELS - 1) / CHANNELS;
    Place place = place_of_block(blockIdx.x, blocks_across, p.chunks, p.clips);
    int group = p.first_group + place.group;
    bool reversed = (p.reversed_groups >> group) & 1;
    int first_step = place.chunk * p.chunk_steps;
    int last_step = min(first_step + p.chunk_steps, p.length);
    int steps = last_step - first_step;

    int part = threadIdx.x % LANES, column = threadIdx.x / LANES;
    int first_channel = place.tile * CHANNELS, channel = first_channel + column;
    int shifted_column = shifted(part, column);
    bool exists = channel < p.channels;
    long long of_group = (long long)group * p.channels + min(channel, p.channels - 1);
    float own_bias = p.bias != nullptr ? p.bias[of_group] : 0.f;
    float rate[OWN], carry[OWN], slowest = -1e30f, time_passed = 0.f;
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        int s = part * OWN + n;
        bool real = exists && s < STATES;
        rate[n] = real ? LOG2_E * p.A[of_group * STATES + s] : 0.f;
        if (real) slowest = fmaxf(slowest, rate[n]);
        carry[n] = 0.f;
    }

    // Rows are counted as they are walked.
    int first_walked = GRADIENT ? first_step : last_step - 1;
    int origin = reversed ? p.length - 1 - first_walked : first_walked;
    int sign = reversed == (bool)GRADIENT ? -1 : 1, count = p.channels - first_channel;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + origin * p.u_row + first_channel;
    const element* delta =
        p.delta + group * p.delta_group + place.clip * p.delta_clip + origin * p.delta_row + first_channel;
    const element* B = p.B + group * p.B_group + place.clip * p.B_clip + origin * p.B_row;

    Four raw_states[STATE_LOADS];
    auto load_of = [&](int f) { return min((int)threadIdx.x + f * THREADS, STEPS * STATE_FOURS - 1); };
    auto bring = [&](int walked, Tile& tile) {
        copy_rows(tile.u, u, sign * p.u_row, walked, steps - 1, count);
        copy_rows(tile.delta, delta, sign * p.delta_row, walked, steps - 1, count);
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int row = min(walked + load_of(f) / STATE_FOURS, steps - 1), s = 4 * (load_of(f) % STATE_FOURS);
            raw_states[f] = read_four(B + row * (sign * (int)p.B_row) + s, STATES - s);
        }
    };

    bring(0, tiles[0]);
    bool decayed = false;
    for (int walked = 0, buffer = 0; walked < steps; walked += STEPS, buffer ^= 1) {
        const Tile& tile = tiles[buffer];
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++)
            write_taken(&states_in[buffer][0][0] + 4 * load_of(f), raw_states[f]);
        wait_for_copies();
        if (__syncthreads_and(decayed)) break;
        bring(walked + STEPS, tiles[buffer ^ 1]);
        constexpr int unrolled = LANES <= 2 && STATES <= 16 ? STEPS : 1;
#pragma unroll unrolled
        for (int row = 0; row < STEPS; row += LANES) {
            int own = row + part;
            bool inside = walked + own < steps;
            float biased = widen(tile.delta[own][shifted_column]) + own_bias;
            float time = SOFTPLUS ? softplus_fast(biased) : biased;
            float input = widen(tile.u[own][shifted_column]);
            if (!GRADIENT) input *= time;
            if (!inside) time = input = 0.f;
#pragma unroll
            for (int j = 0; j < LANES; j++) {
                float b[OWN];
                float time_j = from_lane<LANES>(time, j), input_j = from_lane<LANES>(input, j);
                read_floats<OWN>(b, &states_in[buffer][row + j][part * OWN]);
                if (GRADIENT) time_passed += time_j;
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = rate[n] * time_passed;
                    bool multiply_add = j * OWN + n < CARRY_FMA_EXPONENTIALS;
                    float decay = multiply_add ? exp2_multiply_add(power) : exp2_fast(power);
                    carry[n] += decay * (input_j * b[n]);
                }
                if (!GRADIENT) time_passed += time_j;
            }
        }
        decayed = SOFTPLUS && (!exists || (slowest < 0.f && slowest * time_passed < NEGLIGIBLE));
    }
    wait_for_copies();
    if (!exists) return;
    long long sequence = (long long)group * p.clips + place.clip;
    long long at = (sequence * p.chunks + place.chunk) * p.channels + channel;
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
    constexpr int ahead = 8;  // Read before anything is written, for the reads do not wait then.
    for (int first = 0; first < p.chunks; first += ahead) {
        float own[ahead], time[ahead];
        auto place = [&](int i) {
            int chunk = GRADIENT ? p.chunks - 1 - (first + i) : first + i;
            return (sequence * p.chunks + chunk) * p.channels + channel;
        };
#pragma unroll
        for (int i = 0; i < ahead; i++)
            if (first + i < p.chunks) own[i] = p.carry[place(i) * PADDED + s], time[i] = p.times[place(i)];
#pragma unroll
        for (int i = 0; i < ahead; i++)
            if (first + i < p.chunks) {
                p.carry[place(i) * PADDED + s] = entering;
                entering = entering * exp2_fast(rate * time[i]) + own[i];
            }
    }
}
