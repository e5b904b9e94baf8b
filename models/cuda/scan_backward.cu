// The selective scan, backward. Walks a chunk of the sequence from its end in tiles of STEPS steps:
// the states within a tile are computed again from the one that entered it (`checkpoints`, which
// scan_forward writes) and wait in shared memory for the way back, in PARTS: the last steps first, for
// less memory and more blocks at a time, at the price of computing the first ones again. A channel is held by four
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

#define PART_STEPS (STEPS / PARTS)

static_assert(STEPS % ROWS_AT_ONCE == 0, "each thread brings whole fours of a tile");

struct alignas(16) Shared {
    float states[PART_STEPS * PER * THREADS * OWN];
    float2 inputs[STEPS][CHANNELS];
    float grad_y[STEPS][CHANNELS];
    float B[STEPS][PADDED], C[STEPS][PADDED];
    float sums[STEPS][WARPS][2 * PADDED];
};

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_backward(Arguments p) {
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

    int four_column = 4 * (threadIdx.x % (CHANNELS / 4)), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + four_column;
    int count = p.channels - four_channel, readable = readable_four(four_channel, p.channels);
    float own_D[4], own_bias[4], grad_D[4], grad_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long long at = (long long)group * p.channels + four_channel + i;
        own_D[i] = p.D != nullptr && i < count ? p.D[at] : 0.f;
        own_bias[i] = p.bias != nullptr && i < count ? p.bias[at] : 0.f;
        grad_D[i] = grad_bias[i] = 0.f;
    }
    int origin = reversed ? p.length - 1 : 0, sign = reversed ? -1 : 1;
    int u_row = sign * p.u_row, delta_row = sign * p.delta_row, grad_y_row = sign * p.grad_y_row;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + origin * p.u_row + readable;
    const element* delta =
        p.delta + group * p.delta_group + place.clip * p.delta_clip + origin * p.delta_row + readable;
    const element* grad_y =
        p.grad_y + group * p.grad_y_group + place.clip * p.grad_y_clip + origin * p.grad_y_row + readable;
    long long written_start = (sequence * p.length + origin) * p.channels + four_channel;
    element* grad_u = p.grad_u + written_start;
    element* grad_delta = p.grad_delta + written_start;
    int written_row = sign * p.channels;
    long long sequences = (long long)p.groups * p.clips;
    float* grad_BC = p.grad_BC + ((place.tile * sequences + sequence) * p.length + origin) * 2 * PADDED;
    const element* states_from[STATE_LOADS];
    float* states_to[STATE_LOADS];
    int states_row[STATE_LOADS], states_step[STATE_LOADS], states_count[STATE_LOADS];
#pragma unroll
    for (int f = 0; f < STATE_LOADS; f++) {
        int load = min((int)threadIdx.x + f * THREADS, 2 * STEPS * STATE_FOURS - 1);
        int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
        int s = 4 * (rest % STATE_FOURS);
        states_step[f] = rest / STATE_FOURS;
        states_to[f] = &(of_C ? shared->C : shared->B)[states_step[f]][s];
        states_row[f] = sign * (int)(of_C ? p.C_row : p.B_row);
        states_from[f] = of_C ? p.C + group * p.C_group + place.clip * p.C_clip + origin * p.C_row + s
                              : p.B + group * p.B_group + place.clip * p.B_clip + origin * p.B_row + s;
        states_count[f] = STATES - s;
    }

    Four raw_u[FOURS], raw_delta[FOURS], raw_grad_y[FOURS], raw_states[STATE_LOADS];
    // Steps and channels past the end read the last ones again; below such steps pass no time, and
    // neither has a gradient.
    auto fetch = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int step = min(tile_step + four_row + f * ROWS_AT_ONCE, last_step - 1);
            raw_u[f] = read_four(u + step * u_row, count);
            raw_delta[f] = read_four(delta + step * delta_row, count);
            raw_grad_y[f] = read_four(grad_y + step * grad_y_row, count);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int step = min(tile_step + states_step[f], last_step - 1);
            raw_states[f] = read_four(states_from[f] + step * states_row[f], states_count[f]);
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
            float pairs[8], dy[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i];
                float time = SOFTPLUS ? softplus_fast(biased) : biased;
                pairs[2 * i] = inside ? time : 0.f;
                pairs[2 * i + 1] = inside ? time * take(raw_u[f], i) : 0.f;
                dy[i] = inside && count > 0 ? take(raw_grad_y[f], i) : 0.f;
            }
            write_floats<8>(&shared->inputs[row][four_column].x, pairs);
            write_floats<4>(&shared->grad_y[row][four_column], dy);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) write_taken(states_to[f], raw_states[f]);
        __syncthreads();
        fetch(max(tile_step - STEPS, first_step));

        long long checkpoint = sequence * p.checkpoint_tiles + tile_step / STEPS;
        float* own_states = shared->states + threadIdx.x * OWN;
        for (int part_row = STEPS - PART_STEPS; part_row >= 0; part_row -= PART_STEPS) {
        float state[PER][OWN];
#pragma unroll
        for (int k = 0; k < PER; k++) {
#pragma unroll
            for (int n = 0; n < OWN; n++) state[k][n] = 0.f;
            if (channel + k < p.channels)
                read_floats<OWN>(
                    state[k],
                    p.checkpoints + (checkpoint * p.channels + channel + k) * PADDED + part * OWN);
        }
        auto advance = [&](int row) {
            float b[OWN];
            read_floats<OWN>(b, &shared->B[row][part * OWN]);
#pragma unroll
            for (int k = 0; k < PER; k++) {
                float2 input = shared->inputs[row][column + k];
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = input.x * rate[k][n];
                    float decay = k * OWN + n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
                    state[k][n] = state[k][n] * decay + input.y * b[n];
                }
            }
        };
#pragma unroll 4
        for (int row = 0; row < part_row; row++) advance(row);
#pragma unroll 4
        for (int row = 0; row < PART_STEPS; row++) {
            advance(part_row + row);
#pragma unroll
            for (int k = 0; k < PER; k++)
                write_floats<OWN>(own_states + (row * PER + k) * THREADS * OWN, state[k]);
        }
#pragma unroll 2
        for (int row = part_row + PART_STEPS - 1; row >= part_row; row--) {
            float b[OWN], c[OWN], grad_b[OWN], grad_c[OWN], totals[2 * PER];
            read_floats<OWN>(b, &shared->B[row][part * OWN]);
            read_floats<OWN>(c, &shared->C[row][part * OWN]);
#pragma unroll
            for (int n = 0; n < OWN; n++) grad_b[n] = grad_c[n] = 0.f;
#pragma unroll
            for (int k = 0; k < PER; k++) {
                float2 input = shared->inputs[row][column + k];
                float dy = shared->grad_y[row][column + k], h[OWN];
                read_floats<OWN>(h, own_states + ((row - part_row) * PER + k) * THREADS * OWN);
                float with_b = 0.f, with_rate = 0.f;
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = input.x * rate[k][n];
                    float decay = k * OWN + n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
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
        }
        __syncthreads();

#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * ROWS_AT_ONCE, step = tile_step + row;
            bool inside = step < last_step;
            float totals[8], of_u[4], of_delta[4];
            read_floats<8>(totals, &shared->inputs[row][four_column].x);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(this_delta[f], i) + own_bias[i], time = biased, slope = 1.f;
                if (SOFTPLUS) {
                    float power = exp2_fast(-LOG2_E * fabsf(biased));
                    time = fmaxf(biased, 0.f) + log1p_fast(power);
                    slope = (biased > 0.f ? 1.f : power) * reciprocal_fast(1.f + power);
                }
                float value = take(this_u[f], i), dy = take(this_grad_y[f], i);
                of_u[i] = time * totals[2 * i] + own_D[i] * dy;
                of_delta[i] = (value * totals[2 * i] + LN_2 * totals[2 * i + 1]) * slope;
                grad_D[i] += inside ? dy * value : 0.f;
                grad_bias[i] += inside ? of_delta[i] : 0.f;
            }
            if (inside) {
                write_four(grad_u + step * written_row, of_u, count);
                write_four(grad_delta + step * written_row, of_delta, count);
            }
        }
#pragma unroll
        for (int i = threadIdx.x; i < STEPS * 2 * PADDED; i += THREADS) {
            int row = i / (2 * PADDED), value = i % (2 * PADDED);
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) sum += shared->sums[row][w][value];
            if (tile_step + row < last_step)
                grad_BC[sign * (tile_step + row) * 2 * PADDED + value] = sum;
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
        columns[(four_row * 2) * CHANNELS + four_column + i] = grad_D[i];
        columns[(four_row * 2 + 1) * CHANNELS + four_column + i] = grad_bias[i];
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
