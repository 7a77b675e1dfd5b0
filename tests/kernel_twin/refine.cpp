#include "twin.h"
#include "refine.cu"

extern const Kernel refine_kernels[] = {KERNEL(refine_labels), {}};
