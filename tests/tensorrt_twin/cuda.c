// A stand-in for libcuda with one device, whose memory is the host's: as much of the driver as hsg calls.
//
// FAKE_CUDA_NAME  the device's name
// FAKE_CUDA_FAIL  alloc: its memory is full; copy: it is lost
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

static int fails(const char* what)
{
    const char* value = getenv("FAKE_CUDA_FAIL");
    return value != NULL && strcmp(value, what) == 0;
}

enum { ABSENT = 801, FULL = 2, LOST = 719, MAJOR = 75, MINOR = 76 };

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { *version = 12060; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device)
{
    *value = attribute == MAJOR ? 8 : attribute == MINOR ? 7 : 16;
    return 0;
}
int cuDeviceGetName(char* name, int length, int device)
{
    const char* value = getenv("FAKE_CUDA_NAME");
    strncpy(name, value == NULL ? "Fake Orin" : value, (size_t)length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)8 << 30; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { static int one; *context = &one; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(void* context) { return context == NULL; }
int cuStreamCreate(void** stream, unsigned flags) { *stream = malloc(1); return 0; }
int cuStreamSynchronize(void* stream) { return fails("copy") ? LOST : 0; }
int cuStreamDestroy_v2(void* stream) { free(stream); return 0; }
int cuMemAlloc_v2(unsigned long long* pointer, size_t bytes)
{
    *pointer = (unsigned long long)(size_t)malloc(bytes);
    return fails("alloc") ? FULL : 0;
}
int cuMemFree_v2(unsigned long long pointer) { free((void*)(size_t)pointer); return 0; }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) { *pointer = malloc(bytes); return 0; }
int cuMemFreeHost(void* pointer) { free(pointer); return 0; }
int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, size_t bytes, void* stream)
{
    memcpy((void*)(size_t)to, from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, unsigned long long from, size_t bytes, void* stream)
{
    memcpy(to, (const void*)(size_t)from, bytes);
    return 0;
}
int cuMemsetD8Async(unsigned long long to, unsigned char byte, size_t bytes, void* stream)
{
    memset((void*)(size_t)to, byte, bytes);
    return 0;
}
int cuModuleLoadData(void** module, const void* image) { return ABSENT; }
int cuModuleUnload(void* module) { return 0; }
int cuGetErrorString(int error, const char** text)
{
    *text = error == FULL ? "out of memory" : error == LOST ? "unspecified launch failure" : "not supported";
    return 0;
}
