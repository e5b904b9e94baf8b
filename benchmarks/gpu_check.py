import torch, time, sys
from reelscan.models.cuda import scan as sc
from reelscan.models.cuda.scan_plan import ForwardPlan, BackwardPlan
FORWARD_SHAPES={1:(1,64,16),2:(2,64,16),4:(2,64,16),8:(2,32,16),16:(1,8,64)}
from reelscan.models.scan_reference import reference_scan

torch.manual_seed(0)
dev = "cuda"


def case(G, B, L, D, S, dtype, rev, lanes=None, chunks=1, per=2, warps=2, start=False):
    u = torch.randn(G, B, L, D, device=dev).to(dtype)
    dl = (torch.randn(G, B, L, D, device=dev) - 1).to(dtype)
    Bm = torch.randn(G, B, L, S, device=dev).to(dtype)
    C = torch.randn(G, B, L, S, device=dev).to(dtype)
    A = -torch.rand(G, D, S, device=dev) * 2
    Dv = torch.randn(G, D, device=dev)
    bias = torch.randn(G, D, device=dev)
    st = torch.randn(G, B, D, S, device=dev) if start else None
    inp = sc.ScanInputs(
        u=u, delta=dl, B=Bm, C=C, A=A, D=Dv, bias=bias, softplus=True, reversed_groups=rev
    )
    plan = bp = None
    if lanes:
        pt, ch, steps = FORWARD_SHAPES[lanes]
        cs = -(-(-(-L // chunks)) // 64) * 64
        chunks = -(-L // cs)
        plan = ForwardPlan(
            lanes=lanes, per_thread=pt, channels=ch, steps=steps, chunks=chunks, chunk_steps=cs
        )
        bp = BackwardPlan(warps=warps, per_thread=per, chunks=chunks, chunk_steps=cs)
    y = torch.full_like(u, float("nan"))
    last = torch.full((G, B, D, S), float("nan"), device=dev)
    ck = sc.new_checkpoints(inp).fill_(float("nan"))
    sc.run_forward(inp, sc.ForwardOutputs(y=y, last=last, checkpoints=ck), start=st, plan=plan)
    gy = torch.randn_like(u)
    gl = torch.randn(G, B, D, S, device=dev)
    gr = sc.run_backward(inp, gy, ck, grad_last=gl, wants_start=True, plan=bp)
    flip = lambda t: torch.stack([t[g].flip(1) if (rev >> g) & 1 else t[g] for g in range(G)])
    ref = [t.double().clone().requires_grad_() for t in (u, dl, A, Bm, C, Dv, bias)]
    rs = (
        st.double() if st is not None else torch.zeros(G, B, D, S, dtype=torch.float64, device=dev)
    ).requires_grad_()
    ry, rl = reference_scan(
        flip(ref[0]),
        flip(ref[1]),
        ref[2],
        flip(ref[3]),
        flip(ref[4]),
        D=ref[5],
        delta_bias=ref[6],
        delta_softplus=True,
        initial_state=rs,
    )
    ry = flip(ry)
    grads = torch.autograd.grad([ry, rl], ref + [rs], [gy.double(), gl.double()])
    err = lambda a, b: ((a.double() - b).abs().max() / b.abs().max()).item()
    res = dict(
        y=err(y, ry),
        last=err(last, rl),
        u=err(gr.u, grads[0]),
        delta=err(gr.delta, grads[1]),
        A=err(gr.A, grads[2]),
        B=err(gr.BC[..., 0, :S], grads[3]),
        C=err(gr.BC[..., 1, :S], grads[4]),
        D=err(gr.D, grads[5]),
        bias=err(gr.bias, grads[6]),
        start=err(gr.start, grads[7]),
    )
    print(
        (G, B, L, D, S, str(dtype)[6:], rev, lanes, chunks),
        f"worst {max(res.values()):.1e}",
        {k: f"{v:.1e}" for k, v in res.items() if not v < 2e-5},
        flush=True,
    )


f = torch.float32
case(2, 2, 37, 36, 16, f, 2)
case(1, 1, 7, 5, 3, f, 0)
case(2, 1, 130, 36, 16, f, 2, 1, 2, start=True)
case(2, 1, 200, 12, 16, f, 2, 8, 3, 4, 1, True)
case(1, 1, 200, 12, 16, f, 0, 16, 2, 1, 4)
case(1, 1, 65, 8, 64, f, 1, 4, 2, 1)
case(1, 2, 1569, 64, 16, f, 1)
case(1, 2, 33, 12, 16, torch.bfloat16, 1)
case(1, 2, 33, 12, 1, torch.float16, 1)
from reelscan.models.cuda.mix_directions import mix_directions
from reelscan.models.cuda.add_norm import add_norm
from reelscan.models.mixer import BidirectionalMixer

for width, B, L in ((24, 2, 37), (192, 2, 393)):
    m = BidirectionalMixer(width).to(dev)
    h = torch.randn(B, L, width, device=dev, requires_grad=True)
    w = m._weights()
    out = mix_directions(
        m.in_proj(h),
        w.conv_weight,
        w.conv_bias,
        w.x_proj,
        w.dt_weight,
        w.dt_bias,
        -torch.exp(w.A_log),
        w.D,
        m.out_proj.weight,
    )
    ref = m(h)
    g = torch.randn_like(ref)
    ps = [h] + list(m.parameters())
    a = torch.autograd.grad(out, ps, g)
    b = torch.autograd.grad(ref, ps, g)
    err = lambda a, b: ((a.float() - b).abs().max() / b.abs().max()).item()
    print("mixer", width, f"{err(out, ref):.1e}", max(err(x, y) for x, y in zip(a, b)))
st = torch.randn(3, 5, 576, requires_grad=True, device=dev)
ad = torch.randn(3, 5, 576, requires_grad=True, device=dev)
w = torch.randn(576, requires_grad=True, device=dev)
s_ = torch.tensor([1.0, 0.0, 2.0], device=dev)
tot, nm, _ = add_norm(st, ad, s_, w, 1e-5)
rt = st + ad * s_[:, None, None]
rn = rt * torch.rsqrt(rt.square().mean(-1, keepdim=True) + 1e-5) * w
g1, g2 = torch.randn_like(tot), torch.randn_like(tot)
A = torch.autograd.grad([tot, nm], [st, ad, w], [g1, g2])
R = torch.autograd.grad([rt, rn], [st, ad, w], [g1, g2])
print("norm", [(x - y).abs().max().item() for x, y in zip(A + (tot, nm), R + (rt, rn))])
