"""Classics that neither torchvision nor timm has, small and faithful to their papers.

Each module cites its paper. They are exported as any file of the user's own:
`retinue-export module zfnet.py:ZFNet --weights ...`.
"""
