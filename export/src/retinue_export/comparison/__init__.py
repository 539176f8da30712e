"""Two bundles of one task on the same images: how often they agree, and where they do not.

Each bundle prepares images by its own rule, and both answers are compared in the original image's pixels.
"""
