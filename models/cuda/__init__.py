"""Kernels for NVIDIA GPUs: CUDA C++ compiled by NVRTC where they first run, and what launches them."""
