"""Compiles the Triton kernels for an A100 and an H100, with no card at hand; says which loads are wide."""

from __future__ import annotations

import inspect

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradscope.recorder.kernels import cuda_kernels
from gradscope.recorder.kernels.cuda_statistics import DTYPES

INTEGERS = {"count": "i32", "chunks": "i32"}


def compiled(kernel, signature: dict[str, str], constants: dict[str, object], card: int) -> str:
    if "constexprs" in inspect.signature(ASTSource).parameters:
        source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    else:  # Triton before 3.3
        source = ASTSource(kernel, signature, constants)
    return triton.compile(source, target=GPUTarget("cuda", card, 32), options={"enable_fp_fusion": True}).asm["ptx"]


for card in (80, 90):
    tables = dict.fromkeys(("pointers", "sizes", "tensor_of_chunk", "start_of_chunk"), "*i64")
    for dtype in DTYPES.values():
        signature = {**tables, "partials": "*fp64", **INTEGERS}
        ptx = compiled(cuda_kernels.read_chunks, signature, {"DTYPE": dtype, "ALIGNED": True}, card)
        print(card, dtype, "16-byte loads" if "ld.global.v4.b32" in ptx else "narrow loads")
        compiled(cuda_kernels.read_chunks, signature, {"DTYPE": dtype, "ALIGNED": False}, card)
    signature = {"pointers": "*i64", "partials": "*fp64", **dict.fromkeys(("first_chunk", "rows", "columns"), "*i64")}
    signature |= {"out": "*fp32", **INTEGERS, "stride": "i32"}
    compiled(cuda_kernels.join_chunks, signature, {"WIDTH": 128}, card)
