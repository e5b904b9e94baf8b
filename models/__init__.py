"""Networks and their maths. Imports nothing of ours."""
