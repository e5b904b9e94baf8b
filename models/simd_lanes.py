"""Sixteen float32 at once inside Numba kernels, spelt out so that nothing hangs on a vectoriser.

LLVM makes of them whatever the processor has: one 512-bit register, two of 256 bits, four of 128.
Numba keeps compiled kernels on disk and compares only the kernel's own file; `kernel` has it
compare this file and those of all kernels.
"""

import operator
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16
"""float32 in a vector."""

Array: TypeAlias = Any
"""A one-dimensional contiguous float32 array inside a kernel."""
Lanes: TypeAlias = Any
"""A vector inside a kernel; knows + - * / among its like."""
_Function = TypeVar("_Function", bound=Callable[..., Any])

_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INTEGERS = ir.VectorType(ir.IntType(32), LANES)
_FUSE = ("contract",)
"""Lets a product and a sum become one instruction; nothing else is relaxed, NaN stays NaN."""


def kernel(function: _Function) -> _Function:
    """Compile for use from Python, without the interpreter's lock; kept on disk where it can be."""
    try:
        compiled = numba.njit(function, nogil=True, cache=True, error_model="numpy")
        stored = cast(Any, compiled)._cache._cache_file
        stored._source_stamp = (stored._source_stamp, sources_digest())
    except RuntimeError:  # there is no folder that Numba may write to
        compiled = numba.njit(function, nogil=True, error_model="numpy")
    return cast(_Function, compiled)


@cache
def sources_digest() -> str:
    """Of all that kernels are compiled from."""
    folder = Path(__file__).parent
    files = [Path(__file__), *sorted(folder.glob("*_kernels.py"))]
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def inlined(function: _Function) -> _Function:
    """Compile for use within kernels."""
    return cast(_Function, numba.njit(function, forceinline=True, error_model="numpy"))


class LanesType(types.Type):
    """Numba's type of a vector."""


LANES_TYPE: Any = cast(Any, LanesType)(name="Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Any) -> None:
        cast(Any, super()).__init__(manager, frontend_type, _VECTOR)


def _teach(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    """Let an operator between two vectors be this instruction."""

    def typing(context: Any) -> Any:
        def result(left: Any, right: Any) -> Any:
            return LANES_TYPE if left == right == LANES_TYPE else None

        return result

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, instruction)(*values, flags=_FUSE)

    cast(Any, type_callable)(symbol)(typing)
    cast(Any, lower_builtin)(symbol, LanesType, LanesType)(generate)


_teach(operator.add, "fadd")
_teach(operator.sub, "fsub")
_teach(operator.mul, "fmul")
_teach(operator.truediv, "fdiv")


def _instructions(function: Callable[..., Any]) -> Any:
    """Make a function of what `function` says on being typed: (signature, what generates it)."""
    return intrinsic(function)


def _address(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    """Of the element whose array and index come first among the values."""
    array = context.make_array(signature.args[0])(context, builder, values[0])
    return builder.gep(array.data, [values[1]])


def _repeat(builder: Any, scalar: Any) -> Any:
    first = builder.insert_element(_VECTOR(ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, _VECTOR(ir.Undefined), _INTEGERS([0] * LANES))


@_instructions
def load(typing: Any, array: Any, index: Any) -> Any:
    """The vector that starts at an element of an array."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _address(context, builder, signature, values)
        return builder.load(builder.bitcast(address, _VECTOR.as_pointer()), align=4)

    return LANES_TYPE(array, types.intp), generate


@_instructions
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector from an element of an array on."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address = _address(context, builder, signature, values)
        builder.store(values[2], builder.bitcast(address, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, LANES_TYPE), generate


@_instructions
def spread(typing: Any, array: Any, index: Any) -> Any:
    """One element of an array in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _repeat(builder, builder.load(_address(context, builder, signature, values)))

    return LANES_TYPE(array, types.intp), generate


@_instructions
def constant(typing: Any, number: Any) -> Any:
    """A number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _repeat(builder, builder.fptrunc(values[0], ir.FloatType()))

    return LANES_TYPE(types.float64), generate


@_instructions
def at_least(typing: Any, vector: Any, bound: Any) -> Any:
    """The vector, where it is less the bound; NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, bound = values
        return builder.select(builder.fcmp_ordered("<", value, bound), bound, value)

    return LANES_TYPE(LANES_TYPE, LANES_TYPE), generate


@_instructions
def at_most(typing: Any, vector: Any, bound: Any) -> Any:
    """The vector, where it is more the bound; NaN stays."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        value, bound = values
        return builder.select(builder.fcmp_ordered(">", value, bound), bound, value)

    return LANES_TYPE(LANES_TYPE, LANES_TYPE), generate


@_instructions
def _low_bits_as_exponent(typing: Any, vector: Any) -> Any:
    """The float32 whose biased exponent the lowest bits of this one are."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.shl(builder.bitcast(values[0], _INTEGERS), _INTEGERS([23] * LANES))
        return builder.bitcast(bits, _VECTOR)

    return LANES_TYPE(LANES_TYPE), generate


@_instructions
def total(typing: Any, vector: Any) -> Any:
    """The sum of the lanes, always in the same order."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, width = values[0], LANES
        while width > 1:
            width //= 2
            picks = _INTEGERS([(lane + width) % LANES for lane in range(LANES)])
            moved = builder.shuffle_vector(vector, _VECTOR(ir.Undefined), picks)
            vector = builder.fadd(vector, moved)
        return builder.extract_element(vector, ir.IntType(32)(0))

    return types.float32(LANES_TYPE), generate


def _scales_in_one_instruction() -> bool:
    """Whether kernels are compiled for a processor with AVX-512."""
    config = cast(Any, numba.config)
    if config.CPU_NAME or config.CPU_FEATURES:
        return False
    return bool(binding.get_host_cpu_features().get("avx512f"))


HAS_SCALING = _scales_in_one_instruction()


def _intrinsic_function(builder: Any, name: str, *arguments: Any) -> Any:
    """Declare an instruction of LLVM that takes these types to a vector."""
    kind = ir.FunctionType(_VECTOR, arguments)
    return cast(Any, cgutils).get_or_insert_function(builder.module, kind, name)


@_instructions
def rounded(typing: Any, vector: Any) -> Any:
    """The nearest whole numbers, even ones where two are as near."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = _intrinsic_function(builder, f"llvm.rint.v{LANES}f32", _VECTOR)
        return builder.call(function, [values[0]])

    return LANES_TYPE(LANES_TYPE), generate


@_instructions
def scaled(typing: Any, vector: Any, exponent: Any) -> Any:
    """vector * 2 ** exponent for whole exponents of any size, by AVX-512."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        mask, rounding = ir.IntType(16), ir.IntType(32)
        types_taken = (_VECTOR, _VECTOR, _VECTOR, mask, rounding)
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        function = _intrinsic_function(builder, name, *types_taken)
        as_is = _VECTOR([0.0] * LANES)
        return builder.call(function, [*values, as_is, mask(-1), rounding(4)])

    return LANES_TYPE(LANES_TYPE, LANES_TYPE), generate


@inlined
def exp2(x: Lanes) -> Lanes:
    """2 ** x to 2e-7 of its value; 0 below -150, infinite from 128, NaN for NaN."""
    if HAS_SCALING:
        x = at_most(at_least(x, constant(-200.0)), constant(200.0))
        whole = rounded(x)
        return scaled(_exp2_of_fraction(x - whole), whole)
    return _exp2_from_bits(x)


@inlined
def _exp2_of_fraction(x: Lanes) -> Lanes:
    """2 ** x on [-1/2, 1/2]: the polynomial least in relative error of those exact at 0."""
    series = constant(1.32647e-3) * x + constant(9.67151e-3)
    series = series * x + constant(5.550734e-2)
    series = series * x + constant(2.4022242e-1)
    series = series * x + constant(6.9314698e-1)
    return series * x + constant(1.0)


@inlined
def _exp2_from_bits(x: Lanes) -> Lanes:
    """`exp2` on any processor; 0 already below -126.

    Twice the polynomial; the factor left over is a power of two that is made from bits.
    """
    x = at_most(at_least(x, constant(-126.0)), constant(128.0))
    # At this size a float32 has no fraction, so the sum is rounded, and its low bits count from
    # -126, which becomes the exponent 0.
    shift = constant(12582912.0 + 126.0)
    whole = x + shift
    series = _exp2_of_fraction(x - (whole - shift))
    return (series + series) * _low_bits_as_exponent(whole)


@inlined
def log1p_of_fraction(x: Lanes) -> Lanes:
    """log(1 + x) for x in [0, 1]: the series of 2 artanh(x / (2 + x))."""
    ratio = x / (x + constant(2.0))
    square = ratio * ratio
    series = constant(2.0 / 13) * square + constant(2.0 / 11)
    series = series * square + constant(2.0 / 9)
    series = series * square + constant(2.0 / 7)
    series = series * square + constant(2.0 / 5)
    series = series * square + constant(2.0 / 3)
    series = series * square + constant(2.0)
    return series * ratio


@inlined
def negative_exponential(x: Lanes) -> Lanes:
    """exp(-|x|)"""
    return exp2(at_most(x, constant(0.0) - x) * constant(1.4426950408889634))


@inlined
def softplus(x: Lanes) -> Lanes:
    """log(1 + exp(x))"""
    return at_least(x, constant(0.0)) + log1p_of_fraction(negative_exponential(x))


@_instructions
def where_negative(typing: Any, vector: Any, chosen: Any, otherwise: Any) -> Any:
    """Lane by lane `chosen` where the vector is below 0, else `otherwise`."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector, chosen, otherwise = values
        negative = builder.fcmp_ordered("<", vector, _VECTOR([0.0] * LANES))
        return builder.select(negative, chosen, otherwise)

    return LANES_TYPE(LANES_TYPE, LANES_TYPE, LANES_TYPE), generate


@inlined
def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + exp(-x)), exact also where it is almost 0."""
    small = negative_exponential(x)
    return where_negative(x, small, constant(1.0)) / (constant(1.0) + small)
