// The causal depthwise convolution and SiLU of one or two directions; the second looks ahead instead
// of back. A thread slides over ROWS positions of a few neighbouring channels, its window in registers.
//
// Shapes: x, grad_x [clips, length, channels] in steps of their rows and clips; weight
// [DIRECTIONS, channels, TAPS], bias [DIRECTIONS, channels]; y and its gradient, the sum of grad_y
// and more_grad_y, [DIRECTIONS, clips, length, channels]; grad_weight [DIRECTIONS, clips * runs, TAPS + 1, channels]
// (the bias last), still to be summed over its second axis.

#define BACK (TAPS - 1)
#define WINDOW (2 * BACK + 1)
#define AHEAD 8

extern "C" __global__ void __launch_bounds__(128) convolve(Arguments p) {
    int fours = (p.channels + 3) / 4, runs = (p.length + ROWS - 1) / ROWS;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int channel = 4 * (int)(thread % fours);
    thread /= fours;
    int first = (int)(thread % runs) * ROWS;
    int clip = (int)(thread / runs);
    if (clip >= p.clips) return;
    int count = p.channels - channel, stop = min(first + ROWS, p.length);
    const element* x = p.x + clip * p.x_clip + channel;

    float weight[DIRECTIONS][TAPS][4], bias[DIRECTIONS][4], window[WINDOW][4];
#pragma unroll
    for (int g = 0; g < DIRECTIONS; g++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            long long at = (long long)g * p.channels + channel + i;
            bias[g][i] = i < count ? p.bias[at] : 0.f;
#pragma unroll
            for (int k = 0; k < TAPS; k++) weight[g][k][i] = i < count ? p.weight[at * TAPS + k] : 0.f;
        }
    // The newest row of a window, and AHEAD of them, which are read before they are needed.
    constexpr int newest = DIRECTIONS == 2 ? BACK : 0;
    int x_row = (int)p.x_row, last = p.length - 1;
    auto bring = [&](int position) { return read_four(x + min(max(position, 0), last) * x_row, count); };
    auto put = [&](int position, const Four& four, float* to) {
        bool inside = position >= 0 && position <= last;
#pragma unroll
        for (int i = 0; i < 4; i++) to[i] = inside ? take(four, i) : 0.f;
    };
#pragma unroll
    for (int w = 1; w < BACK + 1 + newest; w++) put(first - BACK + w - 1, bring(first - BACK + w - 1), window[w]);
    Four ahead[AHEAD];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) ahead[i] = bring(first + newest + i);
    long long direction = (long long)p.clips * p.length * p.channels;
    element* y = p.y + ((long long)clip * p.length + first) * p.channels + channel;
    for (int start = first; start < stop; start += AHEAD) {
        Four now[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) now[i] = ahead[i];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) ahead[i] = bring(start + newest + AHEAD + i);
#pragma unroll
        for (int step = 0; step < AHEAD; step++, y += p.channels) {
#pragma unroll
            for (int w = 0; w + 1 < WINDOW; w++)
#pragma unroll
                for (int i = 0; i < 4; i++) window[w][i] = window[w + 1][i];
            put(start + newest + step, now[step], window[BACK + newest]);
#pragma unroll
            for (int g = 0; g < DIRECTIONS; g++) {
                float result[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float sum = bias[g][i];
#pragma unroll
                    for (int j = 0; j < TAPS; j++)
                        sum += weight[g][BACK - j][i] * window[g == 0 ? BACK - j : BACK + j][i];
                    result[i] = sum * sigmoid_fast(sum);
                }
                if (start + step < stop) write_four(y + g * direction, result, count);
            }
        }
    }
}

// Two channels a thread here, for it keeps gradients of every tap as well.
__device__ __forceinline__ void bring_two(const element* from, const bool* exists, float* to) {
#if VECTOR && ELEMENT == 0
    float2 two = __ldg(reinterpret_cast<const float2*>(from));
    to[0] = two.x, to[1] = two.y;
#elif VECTOR
    unsigned int two = __ldg(reinterpret_cast<const unsigned int*>(from));
    to[0] = widen((element)two), to[1] = widen((element)(two >> 16));
#else
    to[0] = exists[0] ? widen(from[0]) : 0.f, to[1] = exists[1] ? widen(from[1]) : 0.f;
#endif
}

extern "C" __global__ void __launch_bounds__(128) convolve_backward(Arguments p) {
    int pairs = (p.channels + 1) / 2, runs = (p.length + ROWS - 1) / ROWS;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    int channel = 2 * (int)(thread % pairs);
    thread /= pairs;
    int run = (int)(thread % runs), first = run * ROWS;
    int clip = (int)(thread / runs);
    if (clip >= p.clips) return;
    int count = p.channels - channel, stop = min(first + ROWS, p.length);
    const element* x = p.x + clip * p.x_clip + channel;

    float weight[DIRECTIONS][TAPS][2], bias[DIRECTIONS][2], window[WINDOW][2], grad_x[WINDOW][2];
    float grad_weight[DIRECTIONS][TAPS + 1][2];
#pragma unroll
    for (int g = 0; g < DIRECTIONS; g++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            long long at = (long long)g * p.channels + channel + i;
            bias[g][i] = i < count ? p.bias[at] : 0.f;
#pragma unroll
            for (int k = 0; k <= TAPS; k++) {
                if (k < TAPS) weight[g][k][i] = i < count ? p.weight[at * TAPS + k] : 0.f;
                grad_weight[g][k][i] = 0.f;
            }
        }
    // Rows outside the sequence are read from its ends, and count for nothing.
    int x_row = (int)p.x_row, grad_x_row = (int)p.grad_x_row, grad_y_row = p.channels;
    bool exists[2] = {count > 0, count > 1};
    long long direction = (long long)p.clips * p.length * p.channels;
    long long clip_start = (long long)clip * p.length * p.channels + channel;
    const element* grad_y = p.grad_y + clip_start;
    const element* more_grad_y = p.more_grad_y + clip_start;
    auto bring = [&](int position, float* to) {
        bool inside = position >= 0 && position < p.length;
        bring_two(x + min(max(position, 0), p.length - 1) * x_row, exists, to);
        if (!inside) to[0] = to[1] = 0.f;
    };
#pragma unroll
    for (int w = 0; w < WINDOW; w++) grad_x[w][0] = grad_x[w][1] = 0.f;
#pragma unroll
    for (int w = 1; w < WINDOW; w++) bring(first - 2 * BACK + w - 1, window[w]);

    // window and grad_x lie at position - BACK .. position + BACK.
#pragma unroll 7
    for (int position = first - BACK; position < stop + BACK; position++) {
#pragma unroll
        for (int w = 0; w + 1 < WINDOW; w++)
#pragma unroll
            for (int i = 0; i < 2; i++) window[w][i] = window[w + 1][i], grad_x[w][i] = grad_x[w + 1][i];
        bring(position + BACK, window[WINDOW - 1]);
        grad_x[WINDOW - 1][0] = grad_x[WINDOW - 1][1] = 0.f;
        int row = min(max(position, 0), p.length - 1) * grad_y_row;
        float own = position >= first && position < stop ? 1.f : 0.f;
#pragma unroll
        for (int g = 0; g < DIRECTIONS; g++) {
            bool needed = position >= 0 && position < p.length && (g == 0 ? position >= first : position < stop);
            float grad[2], more[2];
            bring_two(grad_y + g * direction + row, exists, grad);
            bring_two(more_grad_y + g * direction + row, exists, more);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float sum = bias[g][i];
#pragma unroll
                for (int j = 0; j < TAPS; j++)
                    sum += weight[g][BACK - j][i] * window[g == 0 ? BACK - j : BACK + j][i];
                float sigmoid = sigmoid_fast(sum);
                float through = (grad[i] + more[i]) * sigmoid * (1.f + sum * (1.f - sigmoid));
                through = needed ? through : 0.f;
                float counted = through * own;
#pragma unroll
                for (int j = 0; j < TAPS; j++) {
                    int at = g == 0 ? BACK - j : BACK + j;
                    grad_x[at][i] += weight[g][BACK - j][i] * through;
                    grad_weight[g][BACK - j][i] += counted * window[at][i];
                }
                grad_weight[g][TAPS][i] += counted;
            }
        }
        int finished = position - BACK;
        if (finished >= first && finished < stop) {
            element* to = p.grad_x + clip * p.grad_x_clip + finished * grad_x_row + channel;
#if VECTOR && ELEMENT == 0
            if (count > 0) *reinterpret_cast<float2*>(to) = make_float2(grad_x[0][0], grad_x[0][1]);
#elif VECTOR
            if (count > 0) *reinterpret_cast<unsigned int*>(to) = narrow_two(grad_x[0][0], grad_x[0][1]);
#else
            if (count > 0) to[0] = narrow(grad_x[0][0]);
            if (count > 1) to[1] = narrow(grad_x[0][1]);
#endif
        }
    }
#pragma unroll
    for (int g = 0; g < DIRECTIONS; g++)
#pragma unroll
        for (int k = 0; k <= TAPS; k++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (i < count) {
                    long long part = ((long long)g * p.clips + clip) * runs + run;
                    p.grad_weight[(part * (TAPS + 1) + k) * p.channels + channel + i] = grad_weight[g][k][i];
                }
}
