// What a chunk of the sequence hands on to the next, computed for all chunks at once, and the sum of
// these over the chunks. With GRADIENT 0: the state at the end of the chunk had it begun with zero,
// from u and B, walked from the end of the chunk. With GRADIENT 1: the gradient of the state before
// the chunk had none come from behind it, from the gradient of y and C, walked from the start.
// A walk stops when everything further on has decayed below 2^-30.
//
// Shapes: u (u, or the gradient of y), delta [G, clips, length, channels]; B (B, or C)
// [G, clips, length, STATES]; A [G, channels, STATES]; bias [G, channels];
// carry [G, clips, chunks, channels, PADDED]; times [G, clips, chunks, channels].

#define THREADS (CHANNELS / PER * LANES)
#define OWN ((STATES + LANES - 1) / LANES)
#define PADDED ((STATES + 3) / 4 * 4)
#define FOURS (STEPS * CHANNELS / THREADS / 4)
#define ROWS_AT_ONCE (4 * THREADS / CHANNELS)
#define STATE_FOURS ((STATES + 3) / 4)
#define STATE_LOADS ((STEPS * STATE_FOURS + THREADS - 1) / THREADS)
#define NEGLIGIBLE -30.f

static_assert(STEPS * PER % (4 * LANES) == 0, "each thread brings whole fours of a tile");
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

    int part = threadIdx.x % LANES, column = threadIdx.x / LANES * PER;
    int channel = place.tile * CHANNELS + column;
    float rate[PER][OWN], carry[PER][OWN], slowest[PER], time_passed[PER];
#pragma unroll
    for (int k = 0; k < PER; k++) {
        slowest[k] = -1e30f, time_passed[k] = 0.f;
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            int s = part * OWN + n;
            bool real = channel + k < p.channels && s < STATES;
            long long at = ((long long)group * p.channels + channel + k) * STATES + s;
            rate[k][n] = real ? LOG2_E * p.A[at] : 0.f;
            if (real) slowest[k] = fmaxf(slowest[k], rate[k][n]);
            carry[k][n] = 0.f;
        }
    }

    int four_column = 4 * (threadIdx.x % (CHANNELS / 4)), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + four_column;
    int count = p.channels - four_channel, readable = readable_four(four_channel, p.channels);
    float own_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        own_bias[i] = p.bias != nullptr && i < count
            ? p.bias[(long long)group * p.channels + four_channel + i]
            : 0.f;
    // Rows are counted as they are walked.
    int first_walked = GRADIENT ? first_step : last_step - 1;
    int origin = reversed ? p.length - 1 - first_walked : first_walked;
    int sign = reversed == (bool)GRADIENT ? -1 : 1;
    int u_row = sign * p.u_row, delta_row = sign * p.delta_row, B_row = sign * p.B_row;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + origin * p.u_row + readable;
    const element* delta =
        p.delta + group * p.delta_group + place.clip * p.delta_clip + origin * p.delta_row + readable;
    const element* B = p.B + group * p.B_group + place.clip * p.B_clip + origin * p.B_row;

    Four raw_u[FOURS], raw_delta[FOURS], raw_states[STATE_LOADS];
    auto fetch = [&](int walked) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = min(walked + four_row + f * ROWS_AT_ONCE, steps - 1);
            raw_u[f] = read_four(u + row * u_row, count);
            raw_delta[f] = read_four(delta + row * delta_row, count);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = min((int)threadIdx.x + f * THREADS, STEPS * STATE_FOURS - 1);
            int row = min(walked + load / STATE_FOURS, steps - 1), s = 4 * (load % STATE_FOURS);
            raw_states[f] = read_four(B + row * B_row + s, STATES - s);
        }
    };
    auto store = [&](int walked) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * ROWS_AT_ONCE;
            bool inside = walked + row < steps;
            float pairs[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i], value = take(raw_u[f], i);
                float time = SOFTPLUS ? softplus_fast(biased) : biased;
                pairs[2 * i] = inside ? time : 0.f;
                pairs[2 * i + 1] = inside ? (GRADIENT ? value : time * value) : 0.f;
            }
            write_floats<8>(&inputs[row][four_column].x, pairs);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = min((int)threadIdx.x + f * THREADS, STEPS * STATE_FOURS - 1);
            write_taken(shared_B[load / STATE_FOURS] + 4 * (load % STATE_FOURS), raw_states[f]);
        }
    };

    fetch(0);
    for (int walked = 0; walked < steps; walked += STEPS) {
        store(walked);
        __syncthreads();
        fetch(walked + STEPS);
#pragma unroll 8
        for (int row = 0; row < STEPS; row++) {
            float b[OWN], input[2 * PER];
            read_floats<2 * PER>(input, &inputs[row][column].x);
            read_floats<OWN>(b, &shared_B[row][part * OWN]);
#pragma unroll
            for (int k = 0; k < PER; k++) {
                if (GRADIENT) time_passed[k] += input[2 * k];
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = rate[k][n] * time_passed[k];
                    bool multiply_add = k * OWN + n < FMA_EXPONENTIALS;
                    float decay = multiply_add ? exp2_multiply_add(power) : exp2_fast(power);
                    carry[k][n] += decay * (input[2 * k + 1] * b[n]);
                }
                if (!GRADIENT) time_passed[k] += input[2 * k];
            }
        }
        bool decayed = SOFTPLUS;
#pragma unroll
        for (int k = 0; k < PER; k++)
            if (channel + k < p.channels)
                decayed = decayed && slowest[k] < 0.f && slowest[k] * time_passed[k] < NEGLIGIBLE;
        if (__syncthreads_and(decayed)) break;
    }
#pragma unroll
    for (int k = 0; k < PER; k++) {
        long long sequence = (long long)group * p.clips + place.clip;
        long long at = (sequence * p.chunks + place.chunk) * p.channels + channel + k;
        if (channel + k >= p.channels) continue;
        write_floats<OWN>(p.carry + at * PADDED + part * OWN, carry[k]);
        if (part == 0) p.times[at] = time_passed[k];
    }
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
