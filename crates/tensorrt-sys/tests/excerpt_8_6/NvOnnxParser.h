// An excerpt, not TensorRT's header: see NvInfer.h beside it.
#pragma once

#include "NvInfer.h"
#include <cstddef>

#define NV_ONNX_PARSER_MAJOR 0
#define NV_ONNX_PARSER_MINOR 1
#define NV_ONNX_PARSER_PATCH 0

static constexpr int32_t NV_ONNX_PARSER_VERSION
    = NV_ONNX_PARSER_MAJOR * 10000 + NV_ONNX_PARSER_MINOR * 100 + NV_ONNX_PARSER_PATCH;

namespace nvonnxparser
{

class IParserError
{
public:
    virtual char const* desc() const = 0;
    virtual int node() const = 0;

protected:
    virtual ~IParserError() {}
};

class IParser
{
public:
    virtual bool parse(void const* serialized_onnx_model, size_t serialized_onnx_model_size, char const* model_path = nullptr)
        = 0;
    virtual int getNbErrors() const = 0;
    virtual IParserError const* getError(int index) const = 0;
    virtual ~IParser() noexcept = default;
};

} // namespace nvonnxparser
