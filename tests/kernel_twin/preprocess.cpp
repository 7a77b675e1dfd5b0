#include "twin.h"
#include "preprocess.cu"

extern const Kernel preprocess_kernels[] = {
    KERNEL(preprocess_gray),      KERNEL(preprocess_rgb),       KERNEL(preprocess_yuyv),      KERNEL(preprocess_uyvy),
    KERNEL(preprocess_nv12),      KERNEL(preprocess_gray_half), KERNEL(preprocess_rgb_half),  KERNEL(preprocess_yuyv_half),
    KERNEL(preprocess_uyvy_half), KERNEL(preprocess_nv12_half), {},
};
