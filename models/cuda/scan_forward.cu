// The selective scan, forward. LANES neighbouring threads hold PER channels and share their states; a
// block scans CHANNELS channels of one clip over one chunk of the sequence, in tiles of STEPS steps
// that pass through shared memory. What a thread reads of B and C serves all its channels. Tensors
// stay in the order of the sequence: a reversed group only counts its positions from the end.
//
// With MEETS, neighbouring blocks run two opposite directions of the same channels and meet halfway:
// up to there each writes its own result, from there on each adds what the other wrote, and gates.
// Blocks start in the order of their numbers, so whoever waits has a partner that is running or next.
//
// Shapes: u, delta, y, other, z [G, clips, length, channels]; B, C [G, clips, length, STATES];
// A [G, channels, STATES]; D, bias [G, channels]; start [G, clips, chunks, channels, PADDED];
// checkpoints [G, clips, tiles of CHECKPOINT steps, channels, PADDED]; last [G, clips, channels, STATES].

#define THREADS (CHANNELS / PER * LANES)
#define OWN ((STATES + LANES - 1) / LANES)
#define PADDED ((STATES + 3) / 4 * 4)
#define FOURS (STEPS * CHANNELS / THREADS / 4)
#define ROWS_AT_ONCE (4 * THREADS / CHANNELS)
#define STATE_FOURS (PADDED / 4)
#define STATE_LOADS ((2 * STEPS * STATE_FOURS + THREADS - 1) / THREADS)
// Steps whose sums are shared out over the lanes at once, and how rows are set off so that the lanes
// write them to different banks.
#define TOGETHER (LANES > PER ? LANES / PER : 1)
#define SKEW (TOGETHER == 1 ? 0 : TOGETHER > 8 ? 4 : 32 / TOGETHER)

static_assert(STEPS * PER % (4 * LANES) == 0 && STEPS % TOGETHER == 0 && PER * TOGETHER % LANES == 0,
              "each thread brings whole fours of a tile and takes whole sums");
static_assert(CHANNELS % 4 == 0, "rows of a tile hold whole fours");
static_assert(OWN * LANES <= PADDED, "the states of all lanes fit into a row");

#if MEETS
// Waits until the neighbouring block has come as far, and what it wrote can be read.
__device__ __forceinline__ void meet(int* meetings) {
    __syncthreads();
    if (threadIdx.x == 0) {
        int arrived;
        __threadfence();
        asm volatile("st.release.gpu.s32 [%0], 1;" ::"l"(meetings + blockIdx.x) : "memory");
        do
            asm volatile("ld.acquire.gpu.s32 %0, [%1];"
                         : "=r"(arrived) : "l"(meetings + (blockIdx.x ^ 1)) : "memory");
        while (!arrived);
    }
    __syncthreads();
}

// Past the first-level cache, which does not hear of other blocks' writes.
__device__ __forceinline__ Four read_fresh_four(const element* from, int count) {
    Four four = no_elements();
#if VECTOR && ELEMENT == 0
    float4 v = __ldcg(reinterpret_cast<const float4*>(from));
    four = {{v.x, v.y, v.z, v.w}};
#elif VECTOR
    uint2 v = __ldcg(reinterpret_cast<const uint2*>(from));
    four = {{v.x, v.y}};
#else
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < count) set(four, i, *reinterpret_cast<const volatile element*>(from + i));
#endif
    return four;
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_forward(Arguments p) {
    __shared__ __align__(16) float2 inputs[STEPS][CHANNELS];
    __shared__ __align__(16) float outputs[STEPS][CHANNELS + SKEW];
    __shared__ __align__(16) float states_in_out[2][STEPS][PADDED];

    int tiles = (p.channels + CHANNELS - 1) / CHANNELS;
#if MEETS
    Place place = place_of_block(blockIdx.x / 2, tiles, 1, p.clips);
    int group = blockIdx.x % 2;
    int meeting_step = (p.length / 2 + STEPS - 1) / STEPS * STEPS;
    meeting_step = min(meeting_step, p.length);
    if (group == 1) meeting_step = p.length - meeting_step;
    bool met = false;
#else
    Place place = place_of_block(blockIdx.x, tiles, p.chunks, p.clips);
    int group = p.first_group + place.group;
#endif
    bool reversed = (p.reversed_groups >> group) & 1;
    int origin = reversed ? p.length - 1 : 0, sign = reversed ? -1 : 1;
    int first_step = place.chunk * p.chunk_steps;
    int last_step = min(first_step + p.chunk_steps, p.length);

    // What this thread scans.
    int part = threadIdx.x % LANES, column = threadIdx.x / LANES * PER;
    int channel = place.tile * CHANNELS + column;
    long long sequence = (long long)group * p.clips + place.clip;
    float rate[PER][OWN], state[PER][OWN];
#pragma unroll
    for (int k = 0; k < PER; k++) {
        bool exists = channel + k < p.channels;
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            int s = part * OWN + n;
            long long at = ((long long)group * p.channels + channel + k) * STATES + s;
            rate[k][n] = exists && s < STATES ? LOG2_E * p.A[at] : 0.f;
            state[k][n] = 0.f;
        }
        long long entry = (sequence * p.chunks + place.chunk) * p.channels + channel + k;
        if (p.start != nullptr && exists) read_floats<OWN>(state[k], p.start + entry * PADDED + part * OWN);
    }

    // What this thread brings to and takes from the tiles: fours of its own column, and of B and C.
    int four_column = 4 * (threadIdx.x % (CHANNELS / 4)), four_row = threadIdx.x / (CHANNELS / 4);
    int four_channel = place.tile * CHANNELS + four_column;
    int count = p.channels - four_channel, readable = readable_four(four_channel, p.channels);
    float own_D[4], own_bias[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        long long at = (long long)group * p.channels + four_channel + i;
        own_D[i] = p.D != nullptr && i < count ? p.D[at] : 0.f;
        own_bias[i] = p.bias != nullptr && i < count ? p.bias[at] : 0.f;
    }
    int u_row = sign * p.u_row, delta_row = sign * p.delta_row, y_row = sign * p.channels;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + origin * p.u_row + readable;
    const element* delta =
        p.delta + group * p.delta_group + place.clip * p.delta_clip + origin * p.delta_row + readable;
#if GATED
    int z_row = sign * p.z_row;
    const element* z = p.z + group * p.z_group + place.clip * p.z_clip + origin * p.z_row + readable;
#endif
    long long clip_start = ((long long)place.clip * p.length + origin) * p.channels;
#if ADDED
    const element* other = p.other + clip_start + readable;
#endif
#if MEETS
    const element* own_y = p.y + clip_start + readable;
#endif
#if WRITES
    element* y = p.y + (long long)(MEETS ? 0 : place.group) * p.clips * p.length * p.channels + clip_start + four_channel;
#endif
    const element* states_from[STATE_LOADS];
    float* states_to[STATE_LOADS];
    int states_row[STATE_LOADS], states_step[STATE_LOADS], states_count[STATE_LOADS];
#pragma unroll
    for (int f = 0; f < STATE_LOADS; f++) {
        int load = min((int)threadIdx.x + f * THREADS, 2 * STEPS * STATE_FOURS - 1);
        int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
        int s = 4 * (rest % STATE_FOURS);
        states_step[f] = rest / STATE_FOURS;
        states_to[f] = &states_in_out[of_C][states_step[f]][s];
        states_row[f] = sign * (int)(of_C ? p.C_row : p.B_row);
        states_from[f] = of_C ? p.C + group * p.C_group + place.clip * p.C_clip + origin * p.C_row + s
                              : p.B + group * p.B_group + place.clip * p.B_clip + origin * p.B_row + s;
        states_count[f] = STATES - s;
    }

    Four raw_u[FOURS], raw_delta[FOURS], raw_states[STATE_LOADS];
    // Steps past the end read the last one again; store() lets them pass no time.
    auto fetch = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int step = min(tile_step + four_row + f * ROWS_AT_ONCE, last_step - 1);
            raw_u[f] = read_four(u + step * u_row, count);
            raw_delta[f] = read_four(delta + step * delta_row, count);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int step = min(tile_step + states_step[f], last_step - 1);
            raw_states[f] = read_four(states_from[f] + step * states_row[f], states_count[f]);
        }
    };
    auto store = [&](int tile_step) {
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            int row = four_row + f * ROWS_AT_ONCE;
            float pairs[8];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float biased = take(raw_delta[f], i) + own_bias[i];
                float time = SOFTPLUS ? softplus_fast(biased) : biased;
                pairs[2 * i] = time, pairs[2 * i + 1] = time * take(raw_u[f], i);
            }
            if (tile_step + STEPS > last_step && tile_step + row >= last_step)
#pragma unroll
                for (int i = 0; i < 8; i++) pairs[i] = 0.f;
            write_floats<8>(&inputs[row][four_column].x, pairs);
        }
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) write_taken(states_to[f], raw_states[f]);
    };

    fetch(first_step);
    store(first_step);
    __syncthreads();
    for (int tile_step = first_step; tile_step < last_step; tile_step += STEPS) {
        Four this_u[FOURS], this_z[FOURS], this_other[FOURS];
#if MEETS
        bool alone = tile_step + STEPS <= meeting_step;
#else
        constexpr bool alone = false;
#endif
#pragma unroll
        for (int f = 0; f < FOURS; f++) {
            this_u[f] = raw_u[f];
            int step = min(tile_step + four_row + f * ROWS_AT_ONCE, last_step - 1);
#if GATED
            if (!alone) this_z[f] = read_four(z + step * z_row, count);
#endif
#if ADDED
            this_other[f] = read_four(other + step * y_row, count);
#elif MEETS
            if (met) this_other[f] = read_fresh_four(own_y + step * y_row, count);
#endif
        }
        fetch(tile_step + STEPS);

        constexpr int unrolled = UNROLLED;
#pragma unroll unrolled
        for (int row = 0; row < STEPS; row += TOGETHER) {
#if CHECKPOINT
            if ((tile_step + row) % CHECKPOINT == 0 && tile_step + row < last_step)
#pragma unroll
                for (int k = 0; k < PER; k++) {
                    long long at = sequence * p.checkpoint_tiles + (tile_step + row) / CHECKPOINT;
                    float* to = p.checkpoints + (at * p.channels + channel + k) * PADDED + part * OWN;
                    if (channel + k < p.channels) write_floats<OWN>(to, state[k]);
                }
#endif
            float sums[TOGETHER * PER];
#pragma unroll
            for (int j = 0; j < TOGETHER; j++) {
                float b[OWN], c[OWN], input[2 * PER];
                read_floats<2 * PER>(input, &inputs[row + j][column].x);
                read_floats<OWN>(b, &states_in_out[0][row + j][part * OWN]);
                read_floats<OWN>(c, &states_in_out[1][row + j][part * OWN]);
#pragma unroll
                for (int k = 0; k < PER; k++) {
                    float sum = 0.f;
#pragma unroll
                    for (int n = 0; n < OWN; n++) {
                        float power = input[2 * k] * rate[k][n];
                        bool multiply_add = k * OWN + n < FMA_EXPONENTIALS;
                        float decay = multiply_add ? exp2_multiply_add(power) : exp2_fast(power);
                        state[k][n] = state[k][n] * decay + input[2 * k + 1] * b[n];
                        sum += state[k][n] * c[n];
                    }
                    sums[j * PER + k] = sum;
                }
            }
#pragma unroll
            for (int first = 0; first < TOGETHER * PER; first += LANES) {
                sum_to_lanes<LANES, 1>(sums + first, threadIdx.x);
                int own = first + part;
                outputs[row + own / PER][column + own % PER] = sums[first];
            }
        }
        __syncthreads();
#if WRITES
        auto write_row = [&](int f, bool together) {
            int row = four_row + f * ROWS_AT_ONCE;
            float result[4];
            read_floats<4>(result, &outputs[row][four_column]);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                result[i] += own_D[i] * take(this_u[f], i);
#if ADDED || MEETS
                if (together) result[i] += take(this_other[f], i);
#endif
#if GATED
                if (together) result[i] *= silu_fast(take(this_z[f], i));
#endif
            }
            if (tile_step + row < last_step) write_four(y + (tile_step + row) * y_row, result, count);
        };
#if MEETS
        bool meets_now = !met && tile_step + STEPS >= meeting_step;
        if (meets_now) {
#pragma unroll
            for (int f = 0; f < FOURS; f++)
                if (tile_step + four_row + f * ROWS_AT_ONCE < meeting_step) write_row(f, false);
            meet(p.meetings);
            met = true;
#pragma unroll
            for (int f = 0; f < FOURS; f++) {
                int step = min(tile_step + four_row + f * ROWS_AT_ONCE, last_step - 1);
                this_other[f] = read_fresh_four(own_y + step * y_row, count);
            }
        }
#pragma unroll
        for (int f = 0; f < FOURS; f++)
            if (!meets_now || tile_step + four_row + f * ROWS_AT_ONCE >= meeting_step) write_row(f, met);
#else
#pragma unroll
        for (int f = 0; f < FOURS; f++) write_row(f, true);
#endif
#endif
        store(tile_step + STEPS);
        __syncthreads();
    }
    if (p.last == nullptr || last_step < p.length) return;
#pragma unroll
    for (int k = 0; k < PER; k++)
#pragma unroll
        for (int n = 0; n < OWN; n++) {
            int s = part * OWN + n;
            if (channel + k < p.channels && s < STATES)
                p.last[(sequence * p.channels + channel + k) * STATES + s] = state[k][n];
        }
}
