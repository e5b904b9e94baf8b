// The selective scan, forward. A channel is held by LANES neighbouring threads, which share its
// states; a block scans CHANNELS channels of one clip over one chunk of the sequence, in tiles of
// STEPS steps that pass through shared memory. Tensors stay in the order of the sequence: a reversed
// direction only counts its positions from the end.
//
// Shapes: u, delta, y, other, z [G, clips, length, channels]; B, C [G, clips, length, STATES];
// A [G, channels, STATES]; D, bias [G, channels]; start [G, clips, chunks, channels, PADDED];
// checkpoints [G, clips, tiles of CHECKPOINT steps, channels, PADDED]; last [G, clips, channels, STATES].

#define THREADS (CHANNELS * LANES)
#define OWN ((STATES + LANES - 1) / LANES)
#define PADDED ((STATES + 3) / 4 * 4)
#define FOURS (STEPS * CHANNELS / THREADS / 4)
#define STATE_FOURS ((STATES + 3) / 4)
#define STATE_LOADS ((2 * STEPS * STATE_FOURS + THREADS - 1) / THREADS)
#define SKEW (LANES > 1 ? 8 : 0)

static_assert(STEPS % (4 * LANES) == 0, "each thread brings whole fours of a tile");
static_assert(CHANNELS % 4 == 0, "rows of a tile hold whole fours");
static_assert(OWN * LANES <= PADDED, "the states of all lanes fit into a row");

extern "C" __global__ void __launch_bounds__(THREADS) scan_forward(Arguments p) {
    __shared__ __align__(16) float2 inputs[STEPS][CHANNELS];
    __shared__ __align__(16) float outputs[STEPS][CHANNELS + SKEW];
    __shared__ __align__(16) float shared_B[STEPS][PADDED], shared_C[STEPS][PADDED];

    int tiles = (p.channels + CHANNELS - 1) / CHANNELS;
    Place place = place_of_block(blockIdx.x, tiles, p.chunks, p.clips);
    int group = p.first_group + place.group;
    bool reversed = (p.reversed_groups >> group) & 1;
    int first_step = place.chunk * p.chunk_steps;
    int last_step = min(first_step + p.chunk_steps, p.length);

    // What this thread scans.
    int part = threadIdx.x % LANES, column = threadIdx.x / LANES;
    int channel = place.tile * CHANNELS + column;
    bool exists = channel < p.channels;
    long long parameters = (long long)group * p.channels + channel;
    long long sequence = (long long)group * p.clips + place.clip;
    float rate[OWN], state[OWN];
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        int s = part * OWN + n;
        rate[n] = exists && s < STATES ? LOG2_E * p.A[parameters * STATES + s] : 0.f;
        state[n] = 0.f;
    }
    if (p.start != nullptr && exists)
        read_floats<OWN>(
            state,
            p.start + ((sequence * p.chunks + place.chunk) * p.channels + channel) * PADDED + part * OWN);

    // What this thread brings to and takes from the tiles: fours of its own column.
    int four_column = threadIdx.x % (CHANNELS / 4), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + 4 * four_column;
    int count = p.channels - four_channel;
    float own_D[4], own_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long long at = (long long)group * p.channels + four_channel + i;
        own_D[i] = p.D != nullptr && i < count ? p.D[at] : 0.f;
        own_bias[i] = p.bias != nullptr && i < count ? p.bias[at] : 0.f;
    }
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + four_channel;
    const element* delta = p.delta + group * p.delta_group + place.clip * p.delta_clip + four_channel;
    const element* B = p.B + group * p.B_group + place.clip * p.B_clip;
    const element* C = p.C + group * p.C_group + place.clip * p.C_clip;
    const element* z = p.z == nullptr ? nullptr
                                      : p.z + group * p.z_group + place.clip * p.z_clip + four_channel;
    const element* other = p.other == nullptr
        ? nullptr
        : p.other + (long long)place.clip * p.length * p.channels + four_channel;
    element* y = p.y == nullptr
        ? nullptr
        : p.y + ((long long)place.group * p.clips + place.clip) * p.length * p.channels + four_channel;

    Four raw_u[FOURS], raw_delta[FOURS], raw_states[STATE_LOADS];
    auto position = [&](int step) { return reversed ? p.length - 1 - step : step; };
    auto fetch = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int step = tile_step + four_row + f * (4 * THREADS / CHANNELS);
            bool inside = step < last_step;
            long long at = position(step);
            raw_u[f] = read_four(u + at * p.u_row, inside ? count : 0);
            raw_delta[f] = read_four(delta + at * p.delta_row, inside ? count : 0);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
            int step = tile_step + rest / STATE_FOURS, s = 4 * (rest % STATE_FOURS);
            bool inside = of_C < 2 && step < last_step;
            long long at = position(step);
            const element* from = of_C ? C + at * p.C_row + s : B + at * p.B_row + s;
            raw_states[f] = read_four(from, inside ? STATES - s : 0);
        }
    };
    auto store = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * (4 * THREADS / CHANNELS);
            bool inside = tile_step + row < last_step;
            float time[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i];
                time[i] = inside ? (p.softplus ? softplus_fast(biased) : biased) : 0.f;
            }
            float pairs[8];
#pragma unroll
            for (int i = 0; i < 4; i++)
                pairs[2 * i] = time[i], pairs[2 * i + 1] = time[i] * take(raw_u[f], i);
            write_floats<8>(&inputs[row][4 * four_column].x, pairs);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = threadIdx.x + f * THREADS;
            int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
            if (of_C < 2) {
                float* to = (of_C ? shared_C : shared_B)[rest / STATE_FOURS] + 4 * (rest % STATE_FOURS);
                write_taken(to, raw_states[f]);
            }
        }
    };

    fetch(first_step);
    store(first_step);
    __syncthreads();
    for (int tile_step = first_step; tile_step < last_step; tile_step += STEPS) {
        Four this_u[FOURS], this_z[FOURS], this_other[FOURS];
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            this_u[f] = raw_u[f];
            int step = tile_step + four_row + f * (4 * THREADS / CHANNELS);
            int present = step < last_step ? count : 0;
            long long at = position(step);
            if (z != nullptr) this_z[f] = read_four(z + at * p.z_row, present);
            if (other != nullptr) this_other[f] = read_four(other + at * p.channels, present);
        }
        if (tile_step + STEPS < last_step) fetch(tile_step + STEPS);

        constexpr int unrolled = STEPS / LANES > 4 ? 4 : STEPS / LANES;
#pragma unroll unrolled
        for (int row = 0; row < STEPS; row += LANES) {
            if (CHECKPOINT && p.checkpoints != nullptr && exists && tile_step + row < last_step &&
                (tile_step + row) % (CHECKPOINT ? CHECKPOINT : 1) == 0) {
                long long at = sequence * p.checkpoint_tiles + (tile_step + row) / (CHECKPOINT ? CHECKPOINT : 1);
                write_floats<OWN>(
                    p.checkpoints + (at * p.channels + channel) * PADDED + part * OWN, state);
            }
            float sums[LANES];
#pragma unroll
            for (int j = 0; j < LANES; j++) {
                float2 input = inputs[row + j][column];
                float b[OWN], c[OWN];
                read_floats<OWN>(b, &shared_B[row + j][part * OWN]);
                read_floats<OWN>(c, &shared_C[row + j][part * OWN]);
                float sum = 0.f;
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = input.x * rate[n];
                    float decay = n < FMA_EXPONENTIALS ? exp2_multiply_add(power) : exp2_fast(power);
                    state[n] = state[n] * decay + input.y * b[n];
                    sum += state[n] * c[n];
                }
                sums[j] = sum;
            }
            sum_to_lanes<LANES, 1>(sums, threadIdx.x);
            outputs[row + part][column] = sums[0];
        }
        __syncthreads();
        if (y != nullptr) {
#pragma unroll
            for (int f = 0; f < FOURS; f++) {
                int row = four_row + f * (4 * THREADS / CHANNELS);
                float result[4];
                read_floats<4>(result, &outputs[row][4 * four_column]);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    result[i] += own_D[i] * take(this_u[f], i);
                    if (other != nullptr) result[i] += take(this_other[f], i);
                    if (z != nullptr) {
                        float gate = take(this_z[f], i);
                        result[i] *= gate * sigmoid_fast(gate);
                    }
                }
                if (tile_step + row < last_step)
                    write_four(y + position(tile_step + row) * (long long)p.channels, result, count);
            }
        }
        if (tile_step + STEPS < last_step) store(tile_step + STEPS);
        __syncthreads();
    }
    if (p.last != nullptr && exists && last_step == p.length) {
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            int s = part * OWN + n;
            if (s < STATES) p.last[(sequence * p.channels + channel) * STATES + s] = state[n];
        }
    }
}
