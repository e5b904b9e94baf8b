"""A seeded corpus of short clips of moving shapes with compositional captions.

`corpus.write_corpus` makes it, `config.small_corpus` and `config.full_corpus` say how hard it is.
"""
