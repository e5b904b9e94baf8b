// The selective scan, forward. LANES neighbouring threads share the states of a channel; a block scans
// CHANNELS channels of one clip over one chunk of the sequence, in tiles of STEPS steps. While a tile
// is scanned the next one is copied to shared memory, so that a block waits for itself once a tile.
// Of every LANES steps a lane makes one step's time and input, which the others take from it, and
// finishes one step's result. Tensors stay in the order of the sequence: a reversed group only counts
// its positions from the end.
//
// With MEETS, neighbouring blocks run two opposite directions of the same channels and meet halfway:
// up to there each writes its own result, from there on each adds what the other wrote, and gates.
// Blocks start in the order of their numbers, so whoever waits has a partner that is running or next.
//
// With SLICED as well, blocks take slices of sequences from a queue, the first slices of all of them
// first, and hand the state on in memory: where a launch has few blocks, all multiprocessors then
// have equally much to do. What a slice waits for was taken before it.
//
// Shapes: u, delta, y, other, z [G, clips, length, channels]; B, C [G, clips, length, STATES];
// A [G, channels, STATES]; D, bias [G, channels]; start [G, clips, chunks, channels, PADDED];
// checkpoints [G, clips, tiles of CHECKPOINT steps, channels, PADDED]; last [G, clips, channels, STATES].

#define STATE_FOURS (PADDED / 4)
#define STATE_LOADS ((2 * STEPS * STATE_FOURS + THREADS - 1) / THREADS)

static_assert(CHECKPOINT == 0 || CHECKPOINT == STEPS, "checkpoints are where tiles begin");

// Whether results are final, as a type, for the code that a loop runs to be known beforehand.
template <bool VALUE>
struct Finished {
    static constexpr bool value = VALUE;
};

struct Tile {
    element u[STEPS][CHANNELS];
    element delta[STEPS][CHANNELS];
#if GATED
    element z[STEPS][CHANNELS];
#endif
#if ADDED || MEETS
    element other[STEPS][CHANNELS];
#endif
};

#if MEETS
// Tells other blocks that this one has come so far, and what it wrote can be read.
__device__ __forceinline__ void tell(int* flag, int value) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        asm volatile("st.release.gpu.s32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
    }
}

// Waits until another block has told as much.
__device__ __forceinline__ void await(const int* flag, int least) {
    if (threadIdx.x == 0) {
        int told;
        while (true) {
            asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(told) : "l"(flag) : "memory");
            if (told >= least) break;
            __nanosleep(200);
        }
    }
    __syncthreads();
}
#endif

// One chunk of one block; with SLICED one slice of it.
__device__ __forceinline__ void scan_chunk(const Arguments& p, Tile (&tiles)[2],
                                           float (&states_in_out)[2][2][STEPS][PADDED], int block, int slice) {
    int blocks_across = (p.channels + CHANNELS - 1) / CHANNELS;
#if MEETS
    Place place = place_of_block(block / 2, blocks_across, 1, p.clips);
    int group = block % 2;
    int meeting_step = min((p.length / 2 + STEPS - 1) / STEPS * STEPS, p.length);
    if (group == 1) meeting_step = p.length - meeting_step;
    bool met = SLICED && slice * p.chunk_steps >= meeting_step;
#else
    Place place = place_of_block(block, blocks_across, p.chunks, p.clips);
    int group = p.first_group + place.group;
    constexpr bool met = true;
#endif
    bool reversed = (p.reversed_groups >> group) & 1;
    int origin = reversed ? p.length - 1 : 0, sign = reversed ? -1 : 1;
    int first_step = (SLICED ? slice : place.chunk) * p.chunk_steps;
    int end_step = min(first_step + p.chunk_steps, p.length);

    // What this thread scans.
    int part = threadIdx.x % LANES, column = threadIdx.x / LANES;
    int first_channel = place.tile * CHANNELS, channel = first_channel + column;
    int shifted_column = shifted(part, column);
    bool exists = channel < p.channels;
    long long sequence = (long long)group * p.clips + place.clip;
    long long of_group = (long long)group * p.channels + min(channel, p.channels - 1);
    float own_D = p.D != nullptr ? p.D[of_group] : 0.f;
    float own_bias = p.bias != nullptr ? p.bias[of_group] : 0.f;
    float rate[OWN], state[OWN];
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        int s = part * OWN + n;
        rate[n] = exists && s < STATES ? LOG2_E * p.A[of_group * STATES + s] : 0.f;
        state[n] = 0.f;
    }
    if (p.start != nullptr && exists) {
        long long entry = (sequence * p.chunks + place.chunk) * p.channels + channel;
        read_floats<OWN>(state, p.start + entry * PADDED + part * OWN);
    }

#if SLICED
    long long handed = (sequence * p.channels + min(channel, p.channels - 1)) * PADDED + part * OWN;
    int* progress = p.meetings + 2 * blocks_across * p.clips + block;
    if (slice > 0) {
        await(progress, slice);
        read_floats<OWN>(state, p.handed + handed);
    }
#endif

    // Where rows are copied from.
    int count = p.channels - first_channel, y_row = sign * p.channels;
    const element* u = p.u + group * p.u_group + place.clip * p.u_clip + origin * p.u_row + first_channel;
    const element* delta = p.delta + group * p.delta_group + place.clip * p.delta_clip + origin * p.delta_row + first_channel;
#if GATED
    const element* z = p.z + group * p.z_group + place.clip * p.z_clip + origin * p.z_row + first_channel;
#endif
    long long clip_start = ((long long)place.clip * p.length + origin) * p.channels + first_channel;
    const element* states_from[STATE_LOADS];
    int states_row[STATE_LOADS], states_step[STATE_LOADS], states_column[STATE_LOADS];
#pragma unroll
    for (int f = 0; f < STATE_LOADS; f++) {
        int load = min((int)threadIdx.x + f * THREADS, 2 * STEPS * STATE_FOURS - 1);
        int of_C = load / (STEPS * STATE_FOURS), rest = load % (STEPS * STATE_FOURS);
        int s = 4 * (rest % STATE_FOURS);
        states_step[f] = rest / STATE_FOURS;
        states_column[f] = s;
        states_row[f] = sign * (int)(of_C ? p.C_row : p.B_row);
        states_from[f] = of_C ? p.C + group * p.C_group + place.clip * p.C_clip + origin * p.C_row + s
                              : p.B + group * p.B_group + place.clip * p.B_clip + origin * p.B_row + s;
    }
#if WRITES
    element* y = p.y + (long long)(MEETS ? 0 : place.group) * p.clips * p.length * p.channels
        + clip_start + column;
#endif
    Four raw_states[STATE_LOADS];
    auto bring = [&](int tile_step, Tile& tile) {
        copy_rows(tile.u, u, sign * p.u_row, tile_step, p.length - 1, count);
        copy_rows(tile.delta, delta, sign * p.delta_row, tile_step, p.length - 1, count);
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int step = min(tile_step + states_step[f], p.length - 1);
            raw_states[f] = read_four(states_from[f] + step * states_row[f], STATES - states_column[f]);
        }
    };
    auto bring_gate = [&](int tile_step, Tile& tile) {
#if GATED
        copy_rows(tile.z, z, sign * p.z_row, tile_step, p.length - 1, count);
#endif
#if ADDED
        copy_rows(tile.other, p.other + clip_start, y_row, tile_step, p.length - 1, count);
#elif MEETS
        copy_rows(tile.other, p.y + clip_start, y_row, tile_step, p.length - 1, count);
#endif
    };

    // Scans the steps of a tile that lie in from <= step < stop; no time passes in the others.
    auto scan_rows = [&](auto finished, const Tile& tile, int buffer, int tile_step, int from, int stop) {
        unsigned int span = exists ? stop - from : 0;
        constexpr int unrolled = UNROLLED;
#pragma unroll unrolled
        for (int row = 0; row < STEPS; row += LANES) {
            int own = row + part;
            bool active = (unsigned int)(own - from) < span;
            float biased = widen(tile.delta[own][shifted_column]) + own_bias;
            float time = SOFTPLUS ? softplus_fast(biased) : biased;
            float own_u = widen(tile.u[own][shifted_column]);
            if (!active) time = 0.f;
            float input = time * own_u;
            float sums[LANES];
#pragma unroll
            for (int j = 0; j < LANES; j++) {
                float b[OWN], c[OWN];
                float time_j = from_lane<LANES>(time, j), input_j = from_lane<LANES>(input, j);
                read_floats<OWN>(b, &states_in_out[buffer][0][row + j][part * OWN]);
                read_floats<OWN>(c, &states_in_out[buffer][1][row + j][part * OWN]);
                sums[j] = 0.f;
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float power = time_j * rate[n];
                    bool multiply_add = j * OWN + n < FMA_EXPONENTIALS;
                    float decay = multiply_add ? exp2_multiply_add(power) : exp2_fast(power);
                    state[n] = state[n] * decay + input_j * b[n];
                    sums[j] += state[n] * c[n];
                }
            }
#if WRITES
            sum_to_lanes<LANES, 1>(sums, threadIdx.x);
            float result = sums[0] + own_D * own_u;
#if ADDED || MEETS
            if (finished.value) result += widen(tile.other[own][shifted_column]);
#endif
#if GATED
            if (finished.value) result *= silu_fast(widen(tile.z[own][shifted_column]));
#endif
            write_where(active, y + (tile_step + own) * y_row, result);
#endif
        }
    };

    bring(first_step, tiles[0]);
    if (met) bring_gate(first_step, tiles[0]);
    for (int tile_step = first_step, buffer = 0; tile_step < end_step; tile_step += STEPS, buffer ^= 1) {
        Tile& tile = tiles[buffer];
#pragma unroll
        for (int f = 0; f < STATE_LOADS; f++) {
            int load = min((int)threadIdx.x + f * THREADS, 2 * STEPS * STATE_FOURS - 1);
            write_taken(&states_in_out[buffer][0][0][0] + 4 * load, raw_states[f]);
        }
        wait_for_copies();
        __syncthreads();
        bring(tile_step + STEPS, tiles[buffer ^ 1]);
        if (met) bring_gate(tile_step + STEPS, tiles[buffer ^ 1]);
#if CHECKPOINT
        if (exists) {
            long long at = sequence * p.checkpoint_tiles + tile_step / CHECKPOINT;
            write_floats<OWN>(p.checkpoints + (at * p.channels + channel) * PADDED + part * OWN, state);
        }
#endif
        int until = min(end_step - tile_step, STEPS);
#if MEETS
        if (met) {
            scan_rows(Finished<true>(), tile, buffer, tile_step, 0, until);
            continue;
        }
        int stop = min(until, meeting_step - tile_step);
        scan_rows(Finished<false>(), tile, buffer, tile_step, 0, stop);
        if (tile_step + stop < meeting_step) continue;
        tell(p.meetings + block, 1);
        await(p.meetings + (block ^ 1), 1);
        met = true;
        bring_gate(tile_step, tile);
        bring_gate(tile_step + STEPS, tiles[buffer ^ 1]);
        if (stop == until) continue;
        wait_for_copies();
        __syncthreads();
        scan_rows(Finished<true>(), tile, buffer, tile_step, stop, until);
#else
        scan_rows(Finished<true>(), tile, buffer, tile_step, 0, until);
#endif
    }
    wait_for_copies();
#if SLICED
    if (end_step < p.length) {
        if (exists) write_floats<OWN>(p.handed + handed, state);
        tell(progress, slice + 1);
    }
#endif
    if (p.last == nullptr || end_step < p.length || !exists) return;
#pragma unroll
    for (int n = 0; n < OWN; n++) {
        int s = part * OWN + n;
        if (s < STATES) p.last[(sequence * p.channels + channel) * STATES + s] = state[n];
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) scan_forward(Arguments p) {
    __shared__ __align__(16) Tile tiles[2];
    __shared__ __align__(16) float states_in_out[2][2][STEPS][PADDED];
#if SLICED
    __shared__ int taken;
    int blocks = 2 * ((p.channels + CHANNELS - 1) / CHANNELS) * p.clips;
    while (true) {
        __syncthreads();
        if (threadIdx.x == 0) taken = atomicAdd(p.meetings + 2 * blocks, 1);
        __syncthreads();
        if (taken >= blocks * p.chunks) return;
        scan_chunk(p, tiles, states_in_out, taken % blocks, taken / blocks);
    }
#else
    scan_chunk(p, tiles, states_in_out, blockIdx.x, 0);
#endif
}
