"""Fracture and entanglement: do networks with the same outputs differ in whether one concept lives in one place?

Source: Kumar, Clune, Lehman, Stanley 2025 (arXiv 2505.11581).
"""
