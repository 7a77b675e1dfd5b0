// The C side of the boundary: what src/raw.rs declares. No C++ type and no exception crosses it.
//
// Every function that can fail returns 0 for success and writes words into `error` (at most `ERROR_BYTES`, ending with zero)
// otherwise. Handles are TensorRT's own objects; who made one destroys it, contexts before their engine, the engine before
// the runtime.
#pragma once
#include <stddef.h>
#include <stdint.h>

extern "C" {

enum { HSG_TRT_ERROR_BYTES = 2048, HSG_TRT_MAX_DIMS = 8 };

// severity: 0 internal error, 1 error, 2 warning, 3 info, 4 verbose.
typedef void (*hsg_trt_log)(int32_t severity, const char* text);
// kind: 0 an engine, 1 a timing cache, 2 a text.
typedef void (*hsg_trt_sink)(void* to, int32_t kind, const void* bytes, size_t length);
// A phase of the build begins (steps > 0), has done a step (steps = 0, done = number) or ends (steps < 0); 0 cancels.
typedef int32_t (*hsg_trt_progress)(void* to, const char* phase, const char* parent, int32_t steps, int32_t done);

// Asked once after a build: timings that somebody else has kept since it began, or none. They live until the build returns.
typedef const void* (*hsg_trt_newer)(void* to, size_t* length);

struct hsg_trt_dims {
    int32_t count;
    int64_t lengths[HSG_TRT_MAX_DIMS];
};

struct hsg_trt_tensor {
    const char* name;  // lives as long as the engine
    int32_t is_input;
    int32_t is_float;  // 32-bit floats
    hsg_trt_dims dims;  // -1: varies
    hsg_trt_dims least, most;  // of inputs, in the only profile
};

struct hsg_trt_range {
    const char* input;
    hsg_trt_dims least, best, most;
};

struct hsg_trt_build {
    const void* onnx;
    size_t onnx_bytes;
    int32_t fp16;  // flags of weakly typed networks (8.6); later versions go by the file
    int32_t int8;
    int32_t hardware_compatible;
    uint64_t workspace_bytes;  // 0: all of the device's memory
    const void* timing_cache;
    size_t timing_cache_bytes;
    const hsg_trt_range* ranges;
    size_t num_ranges;
    hsg_trt_sink sink;
    hsg_trt_progress progress;
    hsg_trt_newer newer_timings;
    void* to;
};

void hsg_trt_header_version(int32_t* major, int32_t* minor, int32_t* patch);
void hsg_trt_set_log(hsg_trt_log log);

void* hsg_trt_runtime_new(void* create, char* error);
void hsg_trt_runtime_delete(void* runtime);

void* hsg_trt_engine_new(void* runtime, const void* bytes, size_t length, char* error);
void hsg_trt_engine_delete(void* engine);
int32_t hsg_trt_engine_num_tensors(void* engine);
int32_t hsg_trt_engine_tensor(void* engine, int32_t index, hsg_trt_tensor* tensor, char* error);
int64_t hsg_trt_engine_activation_bytes(void* engine);
int32_t hsg_trt_engine_layers(void* engine, hsg_trt_sink sink, void* to, char* error);

void* hsg_trt_context_new(void* engine, void* stream, char* error);
void hsg_trt_context_delete(void* context);
int32_t hsg_trt_context_set_shape(void* context, const char* input, const hsg_trt_dims* dims, char* error);
int32_t hsg_trt_context_shape(void* context, const char* tensor, hsg_trt_dims* dims, char* error);
int32_t hsg_trt_context_set_address(void* context, const char* tensor, void* address, char* error);
int32_t hsg_trt_context_enqueue(void* context, void* stream, char* error);

int32_t hsg_trt_build_engine(void* create_builder, void* create_parser, const hsg_trt_build* build, char* error);
}
