// What TensorRT's headers want of CUDA's: two opaque handles. So no CUDA toolkit is needed to build.
#pragma once
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
