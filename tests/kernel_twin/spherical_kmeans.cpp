#include "twin.h"
#include "spherical_kmeans.cu"

extern const Kernel kmeans_kernels[] = {
    KERNEL(kmeans_gather), KERNEL(kmeans_prepare),   KERNEL(kmeans_start),      KERNEL(kmeans_assign),
    KERNEL(kmeans_reseed), KERNEL(kmeans_centroids), KERNEL(kmeans_prototypes), {},
};
