// What the gate did, backward: of sum * silu(z) with the gradient of the result, the gradients of sum
// and z, and the result again where asked for. Rows of z and of its gradient may lie apart.
//
// Shapes: sum, grad, grad_sum, gated [rows, channels]; z, grad_z [rows, channels] in steps of z_row
// and grad_z_row.

extern "C" __global__ void __launch_bounds__(256) gate_backward(Arguments p) {
    int fours = (p.channels + 3) / 4;
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long row = thread / fours;
    int channel = 4 * (int)(thread % fours);
    if (row >= p.rows) return;
    int count = p.channels - channel;
    long long at = row * p.channels + channel;
    Four sum = read_four(p.sum + at, count), grad = read_four(p.grad + at, count);
    Four z = read_four(p.z + row * p.z_row + channel, count);
    float grad_sum[4], grad_z[4], gated[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float gate = take(z, i), sigmoid = sigmoid_fast(gate), silu = gate * sigmoid;
        gated[i] = take(sum, i) * silu;
        grad_sum[i] = take(grad, i) * silu;
        grad_z[i] = take(grad, i) * take(sum, i) * sigmoid * (1.f + gate - silu);
    }
    write_four(p.grad_sum + at, grad_sum, count);
    write_four(p.grad_z + row * p.grad_z_row + channel, grad_z, count);
    if (p.gated != nullptr) write_four(p.gated + at, gated, count);
}
