// Tiles of STEPS steps and CHANNELS channels, as the scans pass them through shared memory. LANES
// neighbouring threads share a channel's states, OWN each, in rows of PADDED.

#define THREADS (CHANNELS * LANES)
#define OWN ((STATES + LANES - 1) / LANES)
#define PADDED ((STATES + 3) / 4 * 4)
#define COPY (16 / (int)sizeof(element))
#define WARP_CHANNELS (32 / LANES)
// Neighbouring rows of a tile hold their columns shifted, for a warp's lanes to read from all banks.
#define SHIFT ((WARP_CHANNELS > COPY ? WARP_CHANNELS : COPY) % CHANNELS)

static_assert(THREADS % 32 == 0 && STEPS % LANES == 0, "whole warps, and steps for every lane");
static_assert(CHANNELS % COPY == 0 && THREADS % (CHANNELS / COPY) == 0, "threads copy whole rows");
static_assert(OWN * LANES <= PADDED, "the states of all lanes fit into a row");

__device__ __forceinline__ int shifted(int row, int column) {
    return column ^ (row % LANES * SHIFT % CHANNELS);
}

// Copies the rows of a tile, of which `count` elements exist, while the block goes on.
__device__ __forceinline__ void copy_rows(element (*to)[CHANNELS], const element* from, int row_stride,
                                          int step, int last_step, int count) {
#if WIDE
    constexpr int across = CHANNELS / COPY, at_once = THREADS / across;
    int row = threadIdx.x / across, column = threadIdx.x % across * COPY;
    const element* start = from + min(column, count - COPY);
#pragma unroll
    for (int i = 0; i < STEPS; i += at_once, row += at_once)
        if (STEPS % at_once == 0 || row < STEPS)
            copy_sixteen_bytes(&to[row][shifted(row, column)], start + min(step + row, last_step) * row_stride);
#else
    for (int i = threadIdx.x; i < STEPS * CHANNELS; i += THREADS) {
        int row = i / CHANNELS, column = i % CHANNELS;
        const element* at = from + min(step + row, last_step) * row_stride + column;
        to[row][shifted(row, column)] = column < count ? read_fresh(at) : narrow(0.f);
    }
#endif
}
