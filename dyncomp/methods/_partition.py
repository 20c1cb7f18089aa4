"""Classes divided into groups of equal size by their mean features (Mullapudi et al. 2018, CVPR, section 3.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def balanced_partition(means: Tensor, groups: int) -> Tensor:
    """The group of each class, (Y,): every group has floor(Y/groups) or ceil(Y/groups) classes of mean features (Y, F).

    k-means gives the centroids; pairs of class and centroid are then taken by distance, the nearest first, as long as
    the class is free and the group has room. With no more classes than groups, each class has its own.
    """
    size, larger = divmod(len(means), groups)  # `larger` groups have one class more
    distances = torch.cdist(means, _centroids(means, groups))  # (Y, groups)
    partition = torch.full((len(means),), -1)
    taken = [0] * groups
    for pair in distances.flatten().argsort(stable=True).tolist():
        label, group = divmod(pair, distances.shape[1])
        room = taken[group] < size or (taken[group] == size and larger > 0)
        if room and partition[label] < 0:
            larger -= taken[group] == size
            taken[group] += 1
            partition[label] = group
    return partition


def _centroids(means: Tensor, groups: int) -> Tensor:
    """Centroids (groups, F), or the points themselves where there are no more of them."""
    if len(means) <= groups:
        return means
    points = np.unique(means.numpy(), axis=0)  # classes without images are all one point
    from sklearn.cluster import KMeans  # slow to import: not needed to be listed

    fitted = KMeans(min(groups, len(points)), n_init=10, random_state=0).fit(points)
    centroids = torch.from_numpy(fitted.cluster_centers_)
    return torch.cat([centroids, means.mean(0).expand(groups - len(centroids), -1)])
