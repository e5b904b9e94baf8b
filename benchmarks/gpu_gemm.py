import torch
from benchmarks.scan_tuning import milliseconds

b = torch.bfloat16


def r(*s):
    return torch.randn(*s, device="cuda", dtype=b)


for B, L in ((64, 1569), (64, 315)):
    n = B * L
    D = 1152
    xc = r(2, n, D)
    w = r(2, 72, D)
    proj = r(2, n, 72)
    dtw = r(2, D, 40)
    dd = r(2, n, D)
    xz = r(n, 2 * D)
    h = r(n, 576)
    wi = r(2 * D, 576)
    wo = r(576, D)
    g = r(n, 576)
    P = lambda name, f, fl: (
        lambda t: print(B, L, name, f"{t:.3f} ms {fl / t / 1e9:.0f} TF", flush=True)
    )(milliseconds(f))
    P("in_proj", lambda: h @ wi.t(), 2 * n * 576 * 2 * D)
    P("out_proj", lambda: xc[0] @ wo.t(), 2 * n * 576 * D)
    P("x_proj bmm72", lambda: torch.bmm(xc, w.transpose(1, 2)), 2 * 2 * n * 72 * D)
    w8 = r(2, 80, D)
    P("x_proj bmm80", lambda: torch.bmm(xc, w8.transpose(1, 2)), 2 * 2 * n * 80 * D)
    P("x_proj 2mm", lambda: [xc[i] @ w[i].t() for i in (0, 1)], 2 * 2 * n * 72 * D)
    P("dt bmm", lambda: torch.bmm(proj[..., :40], dtw.transpose(1, 2)), 2 * 2 * n * 40 * D)
    pc = r(2, n, 40)
    P("dt bmm contiguous", lambda: torch.bmm(pc, dtw.transpose(1, 2)), 2 * 2 * n * 40 * D)
    P("d proj = ddelta@dtw", lambda: torch.bmm(dd, dtw), 2 * 2 * n * 40 * D)
    P("dxc baddbmm", lambda: torch.baddbmm(dd, proj, w), 2 * 2 * n * 72 * D)
    P(
        "wgrad x per clip",
        lambda: (
            torch.bmm(proj.view(2 * B, L, 72).transpose(1, 2), xc.view(2 * B, L, D))
            .view(2, B, 72, D)
            .sum(1, dtype=torch.float32)
        ),
        2 * 2 * n * 72 * D,
    )
    P("wgrad x 2mm", lambda: [proj[i].t() @ xc[i] for i in (0, 1)], 2 * 2 * n * 72 * D)
    P("wgrad x bmm", lambda: torch.bmm(proj.transpose(1, 2), xc), 2 * 2 * n * 72 * D)
    P("wgrad x bmm T", lambda: torch.bmm(xc.transpose(1, 2), proj), 2 * 2 * n * 72 * D)
    P(
        "wgrad dt per clip",
        lambda: (
            torch.bmm(dd.view(2 * B, L, D).transpose(1, 2), proj.view(2 * B, L, 72)[..., :40])
            .view(2, B, D, 40)
            .sum(1, dtype=torch.float32)
        ),
        2 * 2 * n * 40 * D,
    )
    P(
        "wgrad out per clip",
        lambda: torch.bmm(g.view(B, L, 576).transpose(1, 2), xc[0].view(B, L, D)).sum(
            0, dtype=torch.float32
        ),
        2 * n * 576 * D,
    )
    P("wgrad out mm", lambda: g.t() @ xc[0], 2 * n * 576 * D)
    P("dgrad out", lambda: g @ wo, 2 * n * 576 * D)
    del xc, w, proj, dtw, dd, xz, h, g
