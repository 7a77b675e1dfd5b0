#include "twin.h"
#include "frame.cu"

extern const Kernel frame_kernels[] = {
    KERNEL(frame_first_not_finite), KERNEL(frame_distances), KERNEL(frame_grouping_inputs), {},
};
