"""Kernels for NVIDIA GPUs: CUDA C++, compiled by NVRTC where it first runs, and its launching."""
