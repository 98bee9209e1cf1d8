"""Eigenvectors of many graphs of one size at once: a block Krylov method for a GPU (sazs §9.3).

All images take the same steps, so every product is one batched multiplication. What a fixed number of
steps does not settle is left to `zslib.spectral.laplacian`, image by image.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from zslib.spectral.laplacian import Spectrum, accepted, colour_affinity, oriented

BLOCK, STEPS = 8, 12


def batched_affinity(
    features: Float[Tensor, "b h w d"],
    images: Sequence[UInt8[np.ndarray, "H W 3"] | None],
    *,
    colour_weight: float,
) -> Float[Tensor, "b n n"]:
    """Return what `zslib.spectral.laplacian.image_affinity` does, for each image, on the features' device."""
    rows = F.normalize(features.float().flatten(1, 2), dim=-1)
    affinity = (rows @ rows.mT).relu_()
    if colour_weight:
        height, width = features.shape[1:3]
        for position, image in enumerate(images):
            if image is not None:
                colour = torch.from_numpy(colour_affinity(image, (height, width)).toarray())
                affinity[position] += colour_weight * colour.to(affinity)
    return affinity


def batched_spectra(
    affinity: Float[Tensor, "b n n"], count: int, *, seed: int = 0
) -> list[Spectrum | None]:
    """Return the `count` smallest eigenpairs of each normalised Laplacian; None where they are not
    found to the accuracy that `zslib.spectral.laplacian.accepted` wants. The affinities are overwritten."""
    size = affinity.shape[1]
    if size <= 1 + BLOCK * (STEPS + 1):  # the basis would fill the space
        return [None] * len(affinity)
    degrees = affinity.sum(dim=-1, dtype=torch.float64)
    roots = torch.where(degrees < 1e-12, 1, degrees).sqrt()
    similarity = affinity.div_(roots.float()[:, :, None]).div_(roots.float()[:, None, :])
    basis, products = _krylov(similarity, F.normalize(roots, dim=-1).float(), seed)
    eigenvalues, vectors, residuals = _rayleigh_ritz(basis, products, count)
    scaled = vectors.double() / roots[:, None]
    found = zip(*(t.cpu().numpy() for t in (eigenvalues, scaled, residuals)), strict=True)
    return [
        Spectrum(1 - values, oriented(rows)) if accepted(values, errors) else None
        for values, rows, errors in found
    ]


def _krylov(
    similarity: Float[Tensor, "b n n"], known: Float[Tensor, "b n"], seed: int
) -> tuple[Float[Tensor, "b n m"], Float[Tensor, "b n m"]]:
    """Return an orthonormal basis that begins with the known first eigenvector, and S times it."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(known.shape[1], BLOCK, generator=generator).to(known)
    basis = products = known[:, :, None]
    block = _orthonormal(start.expand(len(known), -1, -1), basis)
    for _ in range(STEPS + 1):
        product = similarity @ block
        basis, products = torch.cat([basis, block], -1), torch.cat([products, product], -1)
        block = _orthonormal(product, basis)
    return basis, products


def _orthonormal(
    block: Float[Tensor, "b n c"], basis: Float[Tensor, "b n m"]
) -> Float[Tensor, "b n c"]:
    """Return an orthonormal block orthogonal to a basis: Gram-Schmidt, twice.

    Each pass is scaled before the next, so that a block which the basis has used up still ends
    orthogonal to it, as some other directions.
    """
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.mT @ block)).Q
    return block


def _rayleigh_ritz(
    basis: Float[Tensor, "b n m"], products: Float[Tensor, "b n m"], count: int
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k n"], Float[Tensor, "b k"]]:
    """Return the largest Ritz values, descending, their vectors as rows, and the residuals' norms."""
    small = (basis.mT @ products).double()
    eigenvalues, mixing = torch.linalg.eigh((small + small.mT) / 2)
    eigenvalues, mixing = eigenvalues[:, -count:].flip(-1), mixing[:, :, -count:].flip(-1).float()
    vectors = (basis @ mixing).mT
    residuals = (products @ mixing).mT - eigenvalues.float()[:, :, None] * vectors
    return eigenvalues, vectors, residuals.norm(dim=-1).double()
