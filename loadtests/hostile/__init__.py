"""Hostile images: a generator of named kinds, a check of every kind, mutants and a fuzzer."""
