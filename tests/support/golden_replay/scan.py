"""ssm_scan_*: the selective scan by every backend; stored channel-first, u [B, D, L]."""

from torch import Tensor

from golden_replay.case import Case
from reelscan.models.selective_scan import default_backend, selective_scan

ALONG_SEQUENCE = ("u", "delta", "B", "C", "z")
LONGEST_LOOP = 256
"""The plain loop takes seconds on more steps, and is the definition rather than what is used."""


def replay(case: Case) -> None:
    settings = case.settings
    settings.irrelevant(
        reason="descriptions of the stored run",
        keys=("note", "max_abs_err_fp32_vs_fp64", "y_absmax"),
    )
    channels_first = case["in.u"].shape
    sizes = {"B": channels_first[0], "D": channels_first[1], "L": channels_first[2]}
    settings.must_be(**sizes, N=case["in.A"].shape[1])
    backends = {default_backend(case.device, case["in.u"].dtype)[0], "chunked"}
    if sizes["L"] <= LONGEST_LOOP:
        backends.add("reference")
    for backend in sorted(backends):
        _scan(case, backend)


def _scan(case: Case, backend: str) -> None:
    inputs = {name.removeprefix("in."): case.leaf(name) for name in case.names("in.")}
    given = {name: _channel_last(name, tensor) for name, tensor in inputs.items()}
    softplus = case.settings["delta_softplus"]
    result = selective_scan(**given, delta_softplus=softplus, backend=backend)
    y = result.y.transpose(1, 2)
    case.compare("out.y", y)
    case.compare_if_stored("out.y_float64", y)
    case.compare_if_stored("out.last_state", result.last_state)
    if case.names("grad."):
        y.backward(case["train.dout"])
        for name in case.names("grad."):
            case.compare(name, inputs[name.removeprefix("grad.")].grad)


def _channel_last(name: str, tensor: Tensor) -> Tensor:
    if name not in ALONG_SEQUENCE:
        return tensor
    if tensor.dim() == 4:
        # B and C of groups of channels, [B, groups, S, L]: published models have one group.
        assert tensor.shape[1] == 1, f"{name} has {tensor.shape[1]} groups; one is replayed"
        tensor = tensor.squeeze(1)
    return tensor.transpose(1, 2)
