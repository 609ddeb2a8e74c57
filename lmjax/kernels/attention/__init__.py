"""Attention: one function (:func:`~lmjax.kernels.attention.dispatch.attend`), and one file for each backend."""
