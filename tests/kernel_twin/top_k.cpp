#include "twin.h"
#include "top_k.cu"

extern const Kernel top_k_kernels[] = {
    KERNEL(top_k_queries), KERNEL(top_k_scan), KERNEL(top_k_scan_half), KERNEL(top_k_decide), KERNEL(top_k_decide_half), {},
};
