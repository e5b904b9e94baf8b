// stream + scale * added, and its RMS normalisation, in one pass; a warp works on a row.
//
// Shapes: stream, sum, grad_sum, grad_stream [rows, WIDTH] float32; added, normed and their gradients
// [rows, WIDTH]; weight [WIDTH] float32; inverse [rows] float32, the inverse root mean square;
// scale [rows / rows_of_clip] float32; grad_weight [blocks, WIDTH], still to be summed.

#define LOADS ((WIDTH / 4 + 31) / 32)
#define WARPS 8

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
    for (int half = 16; half >= 1; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) add_norm(Arguments p) {
    int lane = threadIdx.x % 32;
    long long row = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= p.rows) return;
    float scale = p.scale != nullptr ? p.scale[row / p.rows_of_clip] : 1.f, squares = 0.f;
    float x[LOADS][4];
#pragma unroll
    for (int l = 0; l < LOADS; l++) {
        int column = 4 * (l * 32 + lane);
        if (column < WIDTH) {
            read_floats<4>(x[l], p.stream + row * WIDTH + column);
            if (p.added != nullptr) {
                Four added = read_vector(p.added + row * WIDTH + column);
#pragma unroll
                for (int i = 0; i < 4; i++) x[l][i] += scale * take(added, i);
                write_floats<4>(p.sum + row * WIDTH + column, x[l]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) squares += x[l][i] * x[l][i];
        }
    }
    float inverse = rsqrtf(sum_of_warp(squares) / WIDTH + p.epsilon);
    if (lane == 0 && p.inverse != nullptr) p.inverse[row] = inverse;
#pragma unroll
    for (int l = 0; l < LOADS; l++) {
        int column = 4 * (l * 32 + lane);
        if (column < WIDTH) {
            float weight[4], result[4];
            read_floats<4>(weight, p.weight + column);
#pragma unroll
            for (int i = 0; i < 4; i++) result[i] = x[l][i] * inverse * weight[i];
            *reinterpret_cast<Four*>(p.normed + row * WIDTH + column) = pack(result);
        }
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) add_norm_backward(Arguments p) {
    __shared__ __align__(16) float sums[WARPS][WIDTH];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float grad_weight[LOADS][4], weight[LOADS][4];
#pragma unroll
    for (int l = 0; l < LOADS; l++) {
        int column = 4 * (l * 32 + lane);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            grad_weight[l][i] = 0.f;
            weight[l][i] = column < WIDTH ? p.weight[column + i] : 0.f;
        }
    }
    for (long long row = (long long)blockIdx.x * WARPS + warp; row < p.rows; row += (long long)gridDim.x * WARPS) {
        float inverse = p.inverse[row], dot = 0.f;
        float scale = p.scale != nullptr ? p.scale[row / p.rows_of_clip] : 1.f;
        float x[LOADS][4], grad[LOADS][4];
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int column = 4 * (l * 32 + lane);
            if (column < WIDTH) {
                read_floats<4>(x[l], p.sum + row * WIDTH + column);
                Four four = read_vector(p.grad_normed + row * WIDTH + column);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    x[l][i] *= inverse;
                    float given = take(four, i);
                    grad_weight[l][i] += given * x[l][i];
                    grad[l][i] = given * weight[l][i];
                    dot += grad[l][i] * x[l][i];
                }
            }
        }
        float mean = sum_of_warp(dot) / WIDTH;
#pragma unroll
        for (int l = 0; l < LOADS; l++) {
            int column = 4 * (l * 32 + lane);
            if (column < WIDTH) {
                float before[4] = {0.f, 0.f, 0.f, 0.f}, added[4];
                if (p.grad_sum != nullptr) read_floats<4>(before, p.grad_sum + row * WIDTH + column);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    before[i] += inverse * (grad[l][i] - x[l][i] * mean);
                    added[i] = before[i] * scale;
                }
                write_floats<4>(p.grad_stream + row * WIDTH + column, before);
                if (p.grad_added != nullptr)
                    *reinterpret_cast<Four*>(p.grad_added + row * WIDTH + column) = pack(added);
            }
        }
    }
#pragma unroll
    for (int l = 0; l < LOADS; l++) {
        int column = 4 * (l * 32 + lane);
        if (column < WIDTH) write_floats<4>(&sums[warp][column], grad_weight[l]);
    }
    __syncthreads();
    for (int column = threadIdx.x; column < WIDTH; column += 32 * WARPS) {
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += sums[w][column];
        p.grad_weight[(long long)blockIdx.x * WIDTH + column] = sum;
    }
}
