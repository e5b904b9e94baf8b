// The selective scan, backward. Walks a chunk of the sequence from its end in tiles of STEPS steps:
// the states within a tile are computed again from the one that entered it (`checkpoints`, which
// scan_forward writes) and wait in shared memory for the way back. A channel is held by four
// neighbouring threads, each thread holds OWN states of PER channels; sums over states cross four
// lanes, sums over channels (the gradients of B and C) the other eight, then the warps of the block.
// What remains to be summed over blocks is written apart, so that every run gives the same bits.
//
// Shapes: u, delta, grad_y [G, clips, length, channels]; B, C [G, clips, length, STATES];
// A [G, channels, STATES]; D, bias [G, channels]; carry (the gradient that comes from behind a
// chunk) [G, clips, chunks, channels, PADDED]; grad_u, grad_delta as u;
// grad_BC [tiles, G, clips, length, 2, PADDED]; grad_A [G, clips * chunks, channels, PADDED];
// grad_D_bias [G, clips * chunks, 2, channels]; grad_start [G, clips, channels, STATES].

#define THREADS (32 * WARPS)
#define CHANNELS (8 * WARPS * PER)
#define PADDED ((STATES + 3) / 4 * 4)
#define OWN (PADDED / 4)
#define FOURS (STEPS * CHANNELS / THREADS / 4)
#define ROWS_AT_ONCE (4 * THREADS / CHANNELS)
#define STATE_FOURS (PADDED / 4)
#define STATE_LOADS ((2 * STEPS * STATE_FOURS + THREADS - 1) / THREADS)

static_assert(STEPS % ROWS_AT_ONCE == 0, "each thread brings whole fours of a tile");

struct alignas(16) Shared {
    float states[STEPS * PER * THREADS * OWN];
    float2 inputs[STEPS][CHANNELS];
    float grad_y[STEPS][CHANNELS];
    float B[STEPS][PADDED], C[STEPS][PADDED];
    float sums[STEPS][WARPS][2 * PADDED];
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) scan_backward(Arguments p) {
    DYNAMIC_SHARED(Shared, shared);

    int tiles = (p.channels + CHANNELS - 1) / CHANNELS;
    Place place = place_of_block(blockIdx.x, tiles, p.chunks, p.clips);
    int group = place.group;
    bool reversed = (p.reversed_groups >> group) & 1;
    int first_step = place.chunk * p.chunk_steps;
    int last_step = min(first_step + p.chunk_steps, p.length);

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = lane % 4;
    int column = (warp * 8 + lane / 4) * PER;
    int channel = place.tile * CHANNELS + column;
    long long sequence = (long long)group * p.clips + place.clip;
    long long chunk_of_clip = sequence * p.chunks + place.chunk;
    float rate[PER][OWN], carry[PER][OWN], grad_A[PER][OWN];
#pragma unroll
    for (int k = 0; k < PER; k++) {
        bool exists = channel + k < p.channels;
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            int s = part * OWN + n;
            rate[k][n] = exists && s < STATES
                ? LOG2_E * p.A[((long long)group * p.channels + channel + k) * STATES + s]
                : 0.f;
            carry[k][n] = grad_A[k][n] = 0.f;
        }
        if (p.carry != nullptr && exists)
            read_floats<OWN>(
                carry[k],
                p.carry + (chunk_of_clip * p.channels + channel + k) * PADDED + part * OWN);
    }

    int four_column = threadIdx.x % (CHANNELS / 4), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + 4 * four_column;
    int count = p.channels - four_channel;
    float own_D[4], own_bias[4], grad_D[4], grad_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long long at = (long long)group * p.channels + four_channel + i;
        own_D[i] = p.D != nullptr && i < count ? p.D[at] : 0.f;
        own_bias[i] = p.bias != nullptr && i < count ? p.bias[at] : 0.f;
        grad_D[i] = grad_bias[i] = 0.f;
    }
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + four_channel;
    const element* delta = p.delta + group * p.delta_group + place.clip * p.delta_clip + four_channel;
    const element* grad_y = p.grad_y + group * p.grad_y_group + place.clip * p.grad_y_clip + four_channel;
    const element* B = p.B + group * p.B_group + place.clip * p.B_clip;
    const element* C = p.C + group * p.C_group + place.clip * p.C_clip;

    Four raw_u[FOURS], raw_delta[FOURS], raw_grad_y[FOURS], raw_states[STATE_LOADS];
    auto position = [&](int step) { return (long long)(reversed ? p.length - 1 - step : step); };
    auto fetch = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int step = tile_step + four_row + f * ROWS_AT_ONCE;
            int present = step < last_step ? count : 0;
            raw_u[f] = read_four(u + position(step) * p.u_row, present);
            raw_delta[f] = read_four(delta + position(step) * p.delta_row, present);
            raw_grad_y[f] = read_four(grad_y + position(step) * p.grad_y_row, present);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
            int step = tile_step + rest / STATE_FOURS, s = 4 * (rest % STATE_FOURS);
            bool inside = of_C < 2 && step < last_step;
            const element* from = of_C ? C + position(step) * p.C_row + s : B + position(step) * p.B_row + s;
            raw_states[f] = read_four(from, inside ? STATES - s : 0);
        }
    };

    int final_tile = (last_step - first_step - 1) / STEPS * STEPS + first_step;
    fetch(final_tile);
    for (int tile_step = final_tile; tile_step >= first_step; tile_step -= STEPS) {
        Four this_u[FOURS], this_delta[FOURS], this_grad_y[FOURS];
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            this_u[f] = raw_u[f], this_delta[f] = raw_delta[f], this_grad_y[f] = raw_grad_y[f];
            int row = four_row + f * ROWS_AT_ONCE;
            bool inside = tile_step + row < last_step;
            float pairs[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i];
                float time = inside ? (p.softplus ? softplus_fast(biased) : biased) : 0.f;
                pairs[2 * i] = time, pairs[2 * i + 1] = time * take(raw_u[f], i);
            }
            write_floats<8>(&shared->inputs[row][4 * four_column].x, pairs);
            write_taken(&shared->grad_y[row][4 * four_column], raw_grad_y[f]);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
            if (of_C < 2)
                write_taken(
                    (of_C ? shared->C : shared->B)[rest / STATE_FOURS] + 4 * (rest % STATE_FOURS),
                    raw_states[f]);
        }
        float state[PER][OWN];
        long long checkpoint = sequence * p.checkpoint_tiles + tile_step / STEPS;
#pragma unroll
        for (int k = 0; k < PER; k++) {
#pragma unroll
            for (int n = 0; n < OWN; n++) state[k][n] = 0.f;
            if (channel + k < p.channels)
                read_floats<OWN>(
                    state[k],
                    p.checkpoints + (checkpoint * p.channels + channel + k) * PADDED + part * OWN);
        }
        __syncthreads();
        if (tile_step > first_step) fetch(tile_step - STEPS);

        float* own_states = shared->states + threadIdx.x * OWN;
#pragma unroll 4
        for (int row = 0; row < STEPS; row++) {
            float b[OWN];
            read_floats<OWN>(b, &shared->B[row][part * OWN]);
#pragma unroll
            for (int k = 0; k < PER; k++) {
                float2 input = shared->inputs[row][column + k];
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = input.x * rate[k][n];
                    float decay = n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
                    state[k][n] = state[k][n] * decay + input.y * b[n];
                }
                write_floats<OWN>(own_states + (row * PER + k) * THREADS * OWN, state[k]);
            }
        }
#pragma unroll 2
        for (int row = STEPS - 1; row >= 0; row--) {
            float b[OWN], c[OWN], grad_b[OWN], grad_c[OWN], totals[2 * PER];
            read_floats<OWN>(b, &shared->B[row][part * OWN]);
            read_floats<OWN>(c, &shared->C[row][part * OWN]);
#pragma unroll
            for (int n = 0; n < OWN; n++) grad_b[n] = grad_c[n] = 0.f;
#pragma unroll
            for (int k = 0; k < PER; k++) {
                float2 input = shared->inputs[row][column + k];
                float dy = shared->grad_y[row][column + k], h[OWN];
                read_floats<OWN>(h, own_states + (row * PER + k) * THREADS * OWN);
                float with_b = 0.f, with_rate = 0.f;
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = input.x * rate[k][n];
                    float decay = n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
                    float g = c[n] * dy + carry[k][n];
                    grad_c[n] += dy * h[n];
                    grad_b[n] += g * input.y;
                    with_b += g * b[n];
                    float decayed = g * (h[n] - input.y * b[n]);
                    with_rate += decayed * rate[k][n];
                    grad_A[k][n] += decayed * input.x;
                    carry[k][n] = g * decay;
                }
                totals[2 * k] = with_b, totals[2 * k + 1] = with_rate;
            }
            float* place_of_totals = &shared->inputs[row][column].x;
            if constexpr (PER == 1) {
                sum_to_lanes<2, 2>(totals, lane);
                totals[0] += __shfl_xor_sync(0xffffffffu, totals[0], 1);
                if (part % 2 == 0) place_of_totals[part / 2] = totals[0];
            } else {
#pragma unroll
                for (int i = 0; i < 2 * PER; i += 4) {
                    sum_to_lanes<4, 1>(totals + i, lane);
                    place_of_totals[i + part] = totals[i];
                }
            }
#pragma unroll
            for (int first = 0; first < OWN; first += 4) {
                float both[8];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    both[i] = first + i < OWN ? grad_b[first + i < OWN ? first + i : 0] : 0.f;
                    both[4 + i] = first + i < OWN ? grad_c[first + i < OWN ? first + i : 0] : 0.f;
                }
                sum_to_lanes<8, 4>(both, lane);
                int which = lane / 4, n = first + which % 4;
                if (n < OWN) shared->sums[row][warp][which / 4 * PADDED + part * OWN + n] = both[0];
            }
        }
        __syncthreads();

#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * ROWS_AT_ONCE;
            if (tile_step + row >= last_step) continue;
            float totals[8], grad_u[4], grad_delta[4];
            read_floats<8>(totals, &shared->inputs[row][4 * four_column].x);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(this_delta[f], i) + own_bias[i], time = biased, slope = 1.f;
                if (p.softplus && biased <= 20.f) {
                    float power = exp2_fast(LOG2_E * biased);
                    time = log1p_fast(power);
                    slope = power * reciprocal_fast(1.f + power);
                }
                float value = take(this_u[f], i), dy = take(this_grad_y[f], i);
                grad_u[i] = time * totals[2 * i] + own_D[i] * dy;
                grad_delta[i] = (value * totals[2 * i] + LN_2 * totals[2 * i + 1]) * slope;
                grad_D[i] += dy * value;
                grad_bias[i] += grad_delta[i];
            }
            long long at = (sequence * p.length + position(tile_step + row)) * p.channels + four_channel;
            write_four(p.grad_u + at, grad_u, count);
            write_four(p.grad_delta + at, grad_delta, count);
        }
        long long groups_clips = (long long)p.groups * p.clips;
        for (int i = threadIdx.x; i < STEPS * 2 * PADDED; i += THREADS) {
            int row = i / (2 * PADDED), value = i % (2 * PADDED);
            if (tile_step + row >= last_step) continue;
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += shared->sums[row][w][value];
            long long at = (place.tile * groups_clips + sequence) * p.length + position(tile_step + row);
            p.grad_BC[at * 2 * PADDED + value] = sum;
        }
        __syncthreads();
    }

#pragma unroll
    for (int k = 0; k < PER; k++) {
        if (channel + k >= p.channels) continue;
        write_floats<OWN>(
            p.grad_A + (chunk_of_clip * p.channels + channel + k) * PADDED + part * OWN, grad_A[k]);
        if (p.grad_start != nullptr && place.chunk == 0)
#pragma unroll
            for (int n = 0; n < OWN; n++)
                if (part * OWN + n < STATES)
                    p.grad_start[(sequence * p.channels + channel + k) * STATES + part * OWN + n] = carry[k][n];
    }
    // The threads of a column of fours sum what they found for its channels.
    float* columns = shared->states;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        columns[(four_row * 2) * CHANNELS + 4 * four_column + i] = grad_D[i];
        columns[(four_row * 2 + 1) * CHANNELS + 4 * four_column + i] = grad_bias[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * CHANNELS; i += THREADS) {
        int own_channel = place.tile * CHANNELS + i % CHANNELS;
        if (own_channel >= p.channels) continue;
        float sum = 0.f;
        for (int row = 0; row < ROWS_AT_ONCE; row++) sum += columns[row * 2 * CHANNELS + i];
        p.grad_D_bias[(chunk_of_clip * 2 + i / CHANNELS) * p.channels + own_channel] = sum;
    }
}
