"""Segmentation networks, assembled from timm encoders."""
