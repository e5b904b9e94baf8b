"""Reading video: probe, decode, sample, transform. Imports nothing of ours."""
