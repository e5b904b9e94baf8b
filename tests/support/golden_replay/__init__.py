"""The stored cases of the published system, replayed: how each family of them is compared."""
