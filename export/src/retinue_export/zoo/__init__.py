"""Classics that neither torchvision nor timm has, small and faithful to their papers.

Each module cites its paper. They are exported as any network of the user's own:
`retinue-export module retinue_export.zoo.zfnet:ZFNet --weights ...`.
"""
