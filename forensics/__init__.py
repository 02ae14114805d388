"""Forensic signals, fusion and the answer's contract: pure functions; no Triton, no torch.

The package itself imports nothing, so that the thin client can use :mod:`veridict.forensics.contract` without OpenCV.
"""
