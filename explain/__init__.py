"""Explanations: forensic maps and the self-contained HTML report."""
